/* A second reading of weights files. See reread.h. */
#include "tests/reread.h"

#include <yajl/yajl_tree.h>

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

typedef struct Wanted { /* a tensor as the file describes it */
    const char *name, *dtype;
    int rank;
    int64_t dim[SHAPE_MAX_RANK], stride[SHAPE_MAX_RANK]; /* in elements */
    const char *first;                                   /* its first element */
} Wanted;

static const struct {
    DType dtype;
    size_t n_bytes;
    const char *names[3]; /* in safetensors; storage classes */
} dtypes[] = {{DT_F32, 4, {"F32", "torch.FloatStorage"}},
              {DT_F64, 8, {"F64", "torch.DoubleStorage"}},
              {DT_F16, 2, {"F16", "torch.HalfStorage"}},
              {DT_BF16, 2, {"BF16", "torch.BFloat16Storage"}},
              {DT_I32, 4, {"I32", "torch.IntStorage"}},
              {DT_I64, 8, {"I64", "torch.LongStorage"}},
              {DT_U8, 1, {"U8", "torch.ByteStorage", "torch.BoolStorage"}}};

static int find_dtype(const char *name)
{
    for (int i = 0; i < (int)(sizeof dtypes / sizeof *dtypes); i++)
        for (int k = 0; k < 3; k++)
            if (dtypes[i].names[k] && strcmp(name, dtypes[i].names[k]) == 0) return i;
    return -1;
}

/* Where element k lies, by the digits of k in the mixed radix of the dims. */
static int64_t place_of(const Wanted *wanted, int64_t k)
{
    int64_t place = 0;
    for (int i = wanted->rank - 1; i >= 0; k /= wanted->dim[i--])
        place += k % wanted->dim[i] * wanted->stride[i];
    return place;
}

static bool check(const Wanted *wanted, const NamedTensor *got, const char *begin, const char *end,
                  char *why)
{
    int kind = find_dtype(wanted->dtype);
    int64_t n = 1;
    bool same = kind >= 0 && strcmp(got->name, wanted->name) == 0 &&
                got->tensor.dtype == dtypes[kind].dtype && got->tensor.shape.rank == wanted->rank;
    for (int i = 0; same && i < wanted->rank; i++) {
        same = got->tensor.shape.dim[i] == wanted->dim[i];
        n *= wanted->dim[i];
    }
    for (int64_t k = 0; same && k < n; k++) {
        size_t size = dtypes[kind].n_bytes;
        const char *from = wanted->first + place_of(wanted, k) * (int64_t)size;
        same = from >= begin && from + size <= end &&
               memcmp(from, (const char *)got->tensor.data + (size_t)k * size, size) == 0;
    }
    if (!same)
        snprintf(why, REREAD_WHY_BYTES, "tensor %.60s is not what the file says of %.60s",
                 got->name, wanted->name);
    return same;
}

static bool check_count(const WeightsFile *file, int n, char *why)
{
    if (file->n_tensors == n) return true;
    snprintf(why, REREAD_WHY_BYTES, "%d tensors, the file has %d", file->n_tensors, n);
    return false;
}

/* ---- safetensors ---- */

static Wanted wanted_of_entry(const char *name, yajl_val entry, const char *data)
{
    const char *dtype[] = {"dtype", NULL}, *shape[] = {"shape", NULL},
               *offsets[] = {"data_offsets", NULL};
    yajl_val dims = yajl_tree_get(entry, shape, yajl_t_array);
    yajl_val range = yajl_tree_get(entry, offsets, yajl_t_array);
    Wanted wanted = {.name = name,
                     .dtype = YAJL_GET_STRING(yajl_tree_get(entry, dtype, yajl_t_string)),
                     .rank = (int)YAJL_GET_ARRAY(dims)->len,
                     .first = data + YAJL_GET_INTEGER(YAJL_GET_ARRAY(range)->values[0])};
    int64_t stride = 1;
    for (int i = wanted.rank - 1; i >= 0; i--) {
        wanted.dim[i] = YAJL_GET_INTEGER(YAJL_GET_ARRAY(dims)->values[i]);
        wanted.stride[i] = stride;
        stride *= wanted.dim[i];
    }
    return wanted;
}

bool reread_safetensors(const char *content, size_t n_bytes, const WeightsFile *file,
                        char why[REREAD_WHY_BYTES])
{
    uint64_t header_bytes;
    memcpy(&header_bytes, content, 8);
    const char *data = content + 8 + header_bytes;
    char *header = mem_alloc((size_t)header_bytes + 1); /* and a zero byte */
    memcpy(header, content + 8, (size_t)header_bytes);
    yajl_val root = yajl_tree_parse(header, NULL, 0);
    assert(root);
    int n = 0;
    bool same = true;
    for (size_t i = 0; same && i < YAJL_GET_OBJECT(root)->len; i++) {
        const char *name = YAJL_GET_OBJECT(root)->keys[i];
        if (strcmp(name, "__metadata__") == 0) continue;
        Wanted wanted = wanted_of_entry(name, YAJL_GET_OBJECT(root)->values[i], data);
        same = n < file->n_tensors &&
               check(&wanted, &file->tensors[n], data, content + n_bytes, why);
        n++;
    }
    if (same) same = check_count(file, n, why);
    yajl_tree_free(root);
    free(header);
    return same;
}

/* ---- pickles ---- */

enum { MAX_NODES = 4096, MAX_STACK = 1024 };

typedef enum NodeKind { OTHER, INTEGER, TEXT, SEQUENCE, DICT, STORAGE, TENSOR } NodeKind;

typedef struct Node Node;
struct Node {
    NodeKind kind;
    int64_t integer;
    char text[512]; /* also of a global: "module.name" */
    Node *items[MAX_STACK];
    int n;
};

typedef struct Machine {
    const unsigned char *next;
    Node *nodes[MAX_NODES], *stack[MAX_STACK], *memo[MAX_NODES];
    int n_nodes, n_stack, marks[MAX_STACK], n_marks, n_memo;
} Machine;

static Node *new_node(Machine *m, NodeKind kind)
{
    assert(m->n_nodes < MAX_NODES && m->n_stack < MAX_STACK);
    Node *node = mem_alloc(sizeof *node);
    node->kind = kind;
    return m->nodes[m->n_nodes++] = m->stack[m->n_stack++] = node;
}

static int64_t little_endian(Machine *m, int n_bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < n_bytes; i++) value |= (uint64_t)*m->next++ << (8 * i);
    return (int64_t)value;
}

static void push_text(Machine *m, int64_t n_bytes)
{
    Node *node = new_node(m, TEXT);
    int64_t kept = n_bytes < 511 ? n_bytes : 511;
    memcpy(node->text, m->next, (size_t)kept);
    m->next += n_bytes;
}

static void push_integer(Machine *m, int64_t value) { new_node(m, INTEGER)->integer = value; }

/* The shortest two's complement: shift the sign up and back. */
static int64_t long_integer(Machine *m)
{
    int n_bytes = (int)little_endian(m, 1), shift = 64 - 8 * n_bytes;
    int64_t value = little_endian(m, n_bytes);
    return n_bytes ? (int64_t)((uint64_t)value << shift) >> shift : 0;
}

/* The top n values, taken off the stack, appended to `into`. */
static void move_down(Machine *m, int n, Node *into)
{
    m->n_stack -= n;
    for (int i = 0; i < n; i++) into->items[into->n++] = m->stack[m->n_stack + i];
}

static int above_mark(Machine *m) { return m->n_stack - m->marks[--m->n_marks]; }

static void make_tuple(Machine *m, int n)
{
    Node into = {0};
    move_down(m, n, &into);
    Node *tuple = new_node(m, SEQUENCE);
    memcpy(tuple->items, into.items, (size_t)n * sizeof *into.items);
    tuple->n = n;
}

static void add(Machine *m, int n) { move_down(m, n, m->stack[m->n_stack - n - 1]); }

static void push_global(Machine *m)
{
    Node *node = new_node(m, TEXT);
    for (size_t n = 0, lines = 0; lines < 2; m->next++) {
        lines += *m->next == '\n';
        if (n < 511 && lines < 2) node->text[n++] = *m->next == '\n' ? '.' : (char)*m->next;
    }
}

/* function(arguments): an OrderedDict, a tensor, or the tensor of a parameter. */
static void call(Machine *m)
{
    Node *arguments = m->stack[--m->n_stack], *function = m->stack[--m->n_stack];
    if (strstr(function->text, "OrderedDict"))
        new_node(m, DICT);
    else if (strstr(function->text, "_rebuild_parameter"))
        m->stack[m->n_stack++] = arguments->items[0];
    else
        new_node(m, TENSOR)->items[0] = arguments;
}

static void put(Machine *m, int64_t index)
{
    m->n_memo += !m->memo[index];
    m->memo[index] = m->stack[m->n_stack - 1];
}

static void step(Machine *m)
{
    Node *top = m->n_stack ? m->stack[m->n_stack - 1] : NULL;
    switch (*m->next++) {
    case 0x80: m->next++; break;
    case 0x95: m->next += 8; break;
    case 'N':
    case 0x88:
    case 0x89: new_node(m, OTHER); break;
    case 'G': m->next += 8, new_node(m, OTHER); break;
    case 'K': push_integer(m, little_endian(m, 1)); break;
    case 'M': push_integer(m, little_endian(m, 2)); break;
    case 'J': push_integer(m, (int32_t)little_endian(m, 4)); break;
    case 0x8a: push_integer(m, long_integer(m)); break;
    case 0x8c: push_text(m, little_endian(m, 1)); break;
    case 'X': push_text(m, little_endian(m, 4)); break;
    case 0x8d: push_text(m, little_endian(m, 8)); break;
    case '(': m->marks[m->n_marks++] = m->n_stack; break;
    case ']':
    case ')': new_node(m, SEQUENCE); break;
    case '}': new_node(m, DICT); break;
    case 0x85: make_tuple(m, 1); break;
    case 0x86: make_tuple(m, 2); break;
    case 0x87: make_tuple(m, 3); break;
    case 't': make_tuple(m, above_mark(m)); break;
    case 'a': add(m, 1); break;
    case 's': add(m, 2); break;
    case 'e':
    case 'u': add(m, above_mark(m)); break;
    case 'q': put(m, little_endian(m, 1)); break;
    case 'r': put(m, little_endian(m, 4)); break;
    case 0x94: put(m, m->n_memo); break;
    case 'h': m->stack[m->n_stack++] = m->memo[little_endian(m, 1)]; break;
    case 'j': m->stack[m->n_stack++] = m->memo[little_endian(m, 4)]; break;
    case 'c': push_global(m); break;
    case 'R': call(m); break;
    case 'b': m->n_stack--; break;
    case 'Q': m->n_stack--, new_node(m, STORAGE)->items[0] = top; break;
    default: assert(!"an instruction that no sample has"); /* 0x93 among them */
    }
}

/* The last value of a key, if it is a dict. */
static Node *dict_under(Node *root, const char *key)
{
    for (int i = root->n - 2; i >= 0; i -= 2)
        if (root->items[i]->kind == TEXT && strcmp(root->items[i]->text, key) == 0)
            return root->items[i + 1]->kind == DICT ? root->items[i + 1] : NULL;
    return NULL;
}

/* A tensor: (storage, offset, size, stride, ..), a storage: ("storage", class, "0", device, n). */
static Wanted wanted_of_node(const Node *key, const Node *tensor, const char *storage)
{
    Node **argument = tensor->items[0]->items, **id = argument[0]->items[0]->items;
    int kind = find_dtype(id[1]->text);
    Wanted wanted = {.name = key->text, .dtype = id[1]->text, .rank = argument[2]->n};
    for (int i = 0; i < wanted.rank; i++) {
        wanted.dim[i] = argument[2]->items[i]->integer;
        wanted.stride[i] = argument[3]->items[i]->integer;
    }
    wanted.first = storage;
    if (kind >= 0) wanted.first += argument[1]->integer * (int64_t)dtypes[kind].n_bytes;
    return wanted;
}

bool reread_pickle(const char *pickle, const void *storage, size_t storage_bytes,
                   const WeightsFile *file, char why[REREAD_WHY_BYTES])
{
    Machine *m = mem_alloc(sizeof *m);
    m->next = (const unsigned char *)pickle;
    while (*m->next != '.') step(m);
    Node *root = m->stack[0], *dict = dict_under(root, "state_dict");
    if (!dict) dict = dict_under(root, "model");
    if (!dict) dict = root;
    bool same = check_count(file, dict->n / 2, why);
    for (int i = 0; same && i < dict->n / 2; i++) {
        Wanted wanted = wanted_of_node(dict->items[2 * i], dict->items[2 * i + 1], storage);
        same = check(&wanted, &file->tensors[i], storage, (const char *)storage + storage_bytes,
                     why);
    }
    for (int i = 0; i < m->n_nodes; i++) free(m->nodes[i]);
    free(m);
    return same;
}
