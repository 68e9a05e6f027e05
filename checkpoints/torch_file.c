/* Reader of PyTorch checkpoints. See torch_file.h. */
#include "checkpoints/torch_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoints/pickle.h"
#include "checkpoints/zip.h"

enum { NOTE_BYTES = 400 };

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "storages are read as little-endian");

/* ---- members ---- */

/* The member ROOT/NAME, where ROOT is the folder that all members lie in. */
static const ZipMember *find_member(const ZipFile *zip, const char *name)
{
    if (!zip->n_members) return NULL;
    const char *first = zip->members[0].name;
    size_t root_bytes = strcspn(first, "/"), name_bytes = strlen(name);
    char *path = mem_alloc(root_bytes + 1 + name_bytes + 1);
    memcpy(path, first, root_bytes);
    path[root_bytes] = '/';
    memcpy(path + root_bytes + 1, name, name_bytes);
    const ZipMember *member = zip_find(zip, path);
    free(path);
    return member;
}

static Status check_byte_order(const ZipFile *zip)
{
    const ZipMember *order = find_member(zip, "byteorder"); /* absent before PyTorch 2.1 */
    if (!order || (order->n_bytes == 6 && !memcmp(order->data, "little", 6))) return OK;
    return status_fail(E_FORMAT, "%s: byteorder is not 'little'; save it on another machine",
                       zip->path);
}

/* The bytes of a storage, which must be as many as the pickle says. */
static Status find_storage(const TorchFile *file, const char *name, const PickleStorage *storage,
                           const ZipMember **out)
{
    char key[128];
    if (snprintf(key, sizeof key, "data/%s", storage->key) >= (int)sizeof key)
        return status_fail(E_FORMAT, "%s: tensor %.100s: its storage has a name of over %zu bytes",
                           file->path, name, sizeof key);
    const ZipMember *member = find_member(file->zip, key);
    if (!member)
        return status_fail(E_FORMAT, "%s: tensor %.100s: its storage %s is not in the archive",
                           file->path, name, key);
    int64_t wanted;
    if (__builtin_mul_overflow(storage->n_elems, (int64_t)dtype_size(storage->dtype), &wanted) ||
        (uint64_t)wanted != member->n_bytes)
        return status_fail(
            E_FORMAT,
            "%s: tensor %.100s: its storage %s holds %zu bytes, wanted %lld elements "
            "of %s",
            file->path, name, key, member->n_bytes, (long long)storage->n_elems,
            dtype_name(storage->dtype));
    *out = member;
    return OK;
}

/* ---- one tensor ---- */

/* The number of elements; false if their bytes, or those of the dims without a 0, do not fit in 63
 * bits. (With that, every product of dims fits.) */
static bool count_elems(const PickleTensor *tensor, int64_t *n_elems)
{
    int64_t n_bytes = (int64_t)dtype_size(tensor->storage->dtype);
    bool overflow = false;
    *n_elems = 1;
    for (int i = 0; i < tensor->shape.rank; i++) {
        int64_t dim = tensor->shape.dim[i];
        overflow |= __builtin_mul_overflow(n_bytes, dim ? dim : 1, &n_bytes);
        if (!overflow) *n_elems *= dim;
    }
    return !overflow;
}

/* Whether all elements lie in the storage. */
static bool fits_storage(const PickleTensor *tensor, int64_t n_elems)
{
    int64_t last = tensor->offset;
    bool overflow = false;
    if (n_elems == 0) return tensor->offset <= tensor->storage->n_elems;
    for (int i = 0; i < tensor->shape.rank; i++) {
        int64_t span;
        overflow |= __builtin_mul_overflow(tensor->shape.dim[i] - 1, tensor->stride[i], &span);
        overflow |= __builtin_add_overflow(last, span, &last);
    }
    return !overflow && last < tensor->storage->n_elems;
}

static bool is_contiguous(const PickleTensor *tensor)
{
    int64_t expected = 1;
    for (int i = tensor->shape.rank - 1; i >= 0; i--) {
        if (tensor->shape.dim[i] != 1 && tensor->stride[i] != expected) return false;
        expected *= tensor->shape.dim[i];
    }
    return true;
}

/* Copies element by element, the last dim fastest. */
static void gather(char *dst, const char *src, const PickleTensor *tensor, int64_t n_elems,
                   size_t element_bytes)
{
    int64_t index[SHAPE_MAX_RANK] = {0}, at = tensor->offset;
    for (int64_t k = 0; k < n_elems; k++) {
        memcpy(dst + (size_t)k * element_bytes, src + (size_t)at * element_bytes, element_bytes);
        for (int i = tensor->shape.rank - 1; i >= 0; i--) {
            if (++index[i] < tensor->shape.dim[i]) {
                at += tensor->stride[i];
                break;
            }
            at -= tensor->stride[i] * (tensor->shape.dim[i] - 1);
            index[i] = 0;
        }
    }
}

static Status copy_tensor(TorchFile *file, int i, const PickleTensor *tensor, const char *bytes,
                          int64_t n_elems)
{
    size_t element_bytes = dtype_size(tensor->storage->dtype);
    size_t n_bytes = (size_t)n_elems * element_bytes;
    if (n_bytes > file->zip->left_bytes)
        return status_fail(E_FORMAT,
                           "%s: tensor %.100s: its strides make %lld elements out of a storage of "
                           "%lld, more than a file of %zu bytes may; save it with .contiguous()",
                           file->path, file->tensors[i].name, (long long)n_elems,
                           (long long)tensor->storage->n_elems, file->file_bytes);
    file->zip->left_bytes -= n_bytes;
    file->copies[i] = malloc(n_bytes);
    if (!file->copies[i])
        return status_fail(E_MEMORY, "%s: tensor %.100s: no memory for %zu bytes", file->path,
                           file->tensors[i].name, n_bytes);
    gather(file->copies[i], bytes, tensor, n_elems, element_bytes);
    file->tensors[i].tensor.data = file->copies[i];
    return OK;
}

static Status check_tensor(const TorchFile *file, const char *name, const PickleTensor *tensor,
                           int64_t *n_elems)
{
    char shape[SHAPE_MAX_RANK * 24];
    shape_format(tensor->shape, shape, sizeof shape);
    if (!count_elems(tensor, n_elems))
        return status_fail(E_FORMAT, "%s: tensor %.100s: shape %s is too large", file->path, name,
                           shape);
    if (fits_storage(tensor, *n_elems)) return OK;
    return status_fail(
        E_FORMAT,
        "%s: tensor %.100s: shape %s with its strides and offset %lld reaches beyond "
        "its storage of %lld elements",
        file->path, name, shape, (long long)tensor->offset, (long long)tensor->storage->n_elems);
}

/* Gives tensor i its bytes: in place if they lie there in order and aligned, else as a copy. */
static Status bind_tensor(TorchFile *file, int i, const PickleTensor *tensor)
{
    const char *name = file->tensors[i].name;
    const ZipMember *member = NULL;
    int64_t n_elems = 0;
    TRY(find_storage(file, name, tensor->storage, &member));
    TRY(check_tensor(file, name, tensor, &n_elems));
    size_t element_bytes = dtype_size(tensor->storage->dtype);
    Tensor *out = &file->tensors[i].tensor;
    *out = (Tensor){.dtype = tensor->storage->dtype, .shape = tensor->shape};
    if (n_elems == 0) return OK;
    char *first = (char *)member->data + (size_t)tensor->offset * element_bytes;
    if (!is_contiguous(tensor) || (uintptr_t)first % element_bytes)
        return copy_tensor(file, i, tensor, member->data, n_elems);
    out->data = first;
    return OK;
}

/* ---- the state dict ---- */

/* The last value under a key, as Python takes it; NULL if there is none. */
static const PickleValue *entry(const PickleValue *dict, const char *key)
{
    for (int i = dict->n_items - 2; i >= 0; i -= 2)
        if (dict->items[i]->kind == PICKLE_TEXT && !strcmp(dict->items[i]->text, key))
            return dict->items[i + 1];
    return NULL;
}

/* Appends to the note the name of an entry that is not read. */
static void note_entry(TorchFile *file, const PickleValue *key)
{
    if (!file->note) file->note = mem_alloc(NOTE_BYTES);
    size_t used = strlen(file->note);
    snprintf(file->note + used, NOTE_BYTES - used, "%s%.60s", used ? ", " : "",
             key->kind == PICKLE_TEXT ? key->text : pickle_kind_name(key->kind));
}

static Status find_state_dict(TorchFile *file, const PickleValue **out)
{
    static const char *const wrappers[] = {"state_dict", "model"};
    const PickleValue *root = pickle_root(file->pickle);
    if (root->kind != PICKLE_DICT)
        return status_fail(E_FORMAT, "%s: holds %s, wanted a state dict", file->path,
                           pickle_kind_name(root->kind));
    *out = root;
    for (size_t w = 0; w < sizeof wrappers / sizeof *wrappers && *out == root; w++) {
        const PickleValue *value = entry(root, wrappers[w]);
        if (value && value->kind == PICKLE_DICT) *out = value;
    }
    for (int i = 0; *out != root && i < root->n_items; i += 2)
        if (root->items[i + 1] != *out) note_entry(file, root->items[i]);
    return OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static Status check_unique(const TorchFile *file)
{
    int n = file->n_tensors;
    const char **names = mem_alloc((size_t)n * sizeof *names);
    for (int i = 0; i < n; i++) names[i] = file->tensors[i].name;
    if (n) qsort(names, (size_t)n, sizeof *names, compare_names);
    Status status = OK;
    for (int i = 1; i < n && status == OK; i++)
        if (!strcmp(names[i - 1], names[i]))
            status = status_fail(E_FORMAT, "%s: tensor %.100s is there twice", file->path,
                                 names[i]);
    free(names);
    return status;
}

static Status read_entry(TorchFile *file, const PickleValue *key, const PickleValue *value)
{
    if (key->kind != PICKLE_TEXT)
        return status_fail(E_FORMAT, "%s: a key of the state dict is %s, wanted a string",
                           file->path, pickle_kind_name(key->kind));
    if (value->kind != PICKLE_TENSOR)
        return status_fail(E_FORMAT,
                           "%s: entry %.100s is %s, wanted a tensor; a state dict must be the "
                           "whole content or lie under 'state_dict' or 'model'",
                           file->path, key->text, pickle_kind_name(value->kind));
    int i = file->n_tensors++;
    file->tensors[i].name = key->text;
    return bind_tensor(file, i, value->tensor);
}

static Status read_state_dict(TorchFile *file)
{
    const PickleValue *dict = NULL;
    TRY(find_state_dict(file, &dict));
    size_t n = (size_t)dict->n_items / 2;
    file->tensors = mem_alloc(n * sizeof *file->tensors);
    file->copies = mem_alloc(n * sizeof *file->copies);
    for (int i = 0; i < dict->n_items; i += 2)
        TRY(read_entry(file, dict->items[i], dict->items[i + 1]));
    return check_unique(file);
}

/* ---- opening ---- */

static Status read_file(TorchFile *file)
{
    TRY(zip_open(file->path, &file->zip));
    file->file_bytes = file->zip->mapping_bytes;
    const ZipMember *pickle = find_member(file->zip, "data.pkl");
    if (!pickle)
        return status_fail(E_FORMAT,
                           "%s: a zip archive without data.pkl; it was not written by torch.save",
                           file->path);
    TRY(check_byte_order(file->zip));
    TRY(pickle_read(file->path, pickle->data, pickle->n_bytes, &file->zip->left_bytes,
                    &file->pickle));
    return read_state_dict(file);
}

Status torch_file_open(const char *path, TorchFile **out)
{
    TorchFile *file = mem_alloc(sizeof *file);
    file->path = mem_string(path);
    Status status = read_file(file);
    if (status != OK) {
        torch_file_close(file);
        return status;
    }
    *out = file;
    return OK;
}

void torch_file_close(TorchFile *file)
{
    if (!file) return;
    for (int i = 0; i < file->n_tensors; i++) free(file->copies[i]);
    free(file->copies);
    free(file->tensors);
    free(file->note);
    pickle_free(file->pickle);
    zip_close(file->zip);
    free(file->path);
    free(file);
}

const Tensor *torch_file_find(const TorchFile *file, const char *name)
{
    for (int i = 0; i < file->n_tensors; i++)
        if (!strcmp(file->tensors[i].name, name)) return &file->tensors[i].tensor;
    return NULL;
}
