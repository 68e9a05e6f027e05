/* Reader of safetensors files. See safetensors.h.
 *
 * yajl streams the header into entries (begin, end, dtype, shape); check_layout then judges them
 * together, and only after that a tensor gets a pointer into the mapping. The header's JSON is at
 * most three levels deep, so a reader state and a field are enough to know where one is.
 */
#include "checkpoints/safetensors.h"

#include <yajl/yajl_parse.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors data is little-endian");

static const char *const dtype_names[DT_COUNT] = {
    [DT_F32] = "F32", [DT_F64] = "F64", [DT_BF16] = "BF16", [DT_F16] = "F16",
    [DT_I32] = "I32", [DT_I64] = "I64", [DT_U8] = "U8",
};

const char *safetensors_dtype_name(DType dtype) { return dtype_names[dtype]; }

enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 100000000 };

typedef struct Range {
    int64_t begin, end; /* bytes from the start of the data area */
    int tensor;         /* index, for messages */
} Range;

typedef enum Place { AT_START, IN_ROOT, IN_META, IN_TENSOR, IN_SHAPE, IN_OFFSETS, AT_END } Place;

enum { HAS_DTYPE = 1, HAS_SHAPE = 2, HAS_OFFSETS = 4, HAS_ALL = 7 };

typedef struct HeaderReader {
    SafeTensors *file;
    Range *ranges; /* one per tensor */
    int tensor_capacity, range_capacity, meta_capacity;
    char *next_string; /* free part of file->strings */
    Place place;
    bool have_meta;
    int fields;  /* HAS_* of the tensor being read */
    int pending; /* the HAS_* whose value comes next, 0 if none */
    int n_offsets;
    Status status; /* of the callback that stopped the parse */
} HeaderReader;

/* ---- messages ---- */

/* Ends the parse: yajl takes 0 as "stop". Names are cut in messages, they may be megabytes. */
#define REFUSE(reader, ...) (((reader)->status = status_fail(E_FORMAT, __VA_ARGS__)) == OK)

static const char *path_of(const HeaderReader *reader) { return reader->file->path; }

static NamedTensor *current(const HeaderReader *reader)
{
    return &reader->file->tensors[reader->file->n_tensors - 1];
}

static int refuse_here(HeaderReader *reader, const char *got)
{
    static const char *const wanted[] = {
        [AT_START] = "one object of tensors",
        [IN_ROOT] = "an object per tensor",
        [IN_META] = "strings only in __metadata__",
        [IN_TENSOR] = "dtype (string), shape and data_offsets (lists)",
        [IN_SHAPE] = "a list of whole numbers in shape",
        [IN_OFFSETS] = "two whole numbers in data_offsets",
        [AT_END] = "nothing after the object",
    };
    bool in_tensor = reader->place == IN_TENSOR || reader->place == IN_SHAPE ||
                     reader->place == IN_OFFSETS;
    return REFUSE(reader, "%s: header%s%.100s: got %s, wanted %s", path_of(reader),
                  in_tensor ? ": tensor " : "", in_tensor ? current(reader)->name : "", got,
                  wanted[reader->place]);
}

/* ---- yajl's callbacks ---- */

/* Copies a string of the JSON; NULL (and a message) if it holds a zero byte, which a C string
 * cannot. */
static char *keep_string(HeaderReader *reader, const unsigned char *text, size_t n_bytes)
{
    if (memchr(text, 0, n_bytes)) {
        reader->status = status_fail(E_FORMAT, "%s: header: a name or value holds a zero byte",
                                     path_of(reader));
        return NULL;
    }
    /* The memory is as large as the header. A decoded string is never longer than its JSON text,
     * and the two quotes of that make room for the NUL. */
    char *copy = reader->next_string;
    memcpy(copy, text, n_bytes);
    copy[n_bytes] = '\0';
    reader->next_string += n_bytes + 1;
    return copy;
}

static int begin_tensor(HeaderReader *reader, const char *name)
{
    SafeTensors *file = reader->file;
    int index = file->n_tensors++;
    file->tensors = mem_grow(file->tensors, &reader->tensor_capacity, index + 1,
                             sizeof *file->tensors);
    reader->ranges = mem_grow(reader->ranges, &reader->range_capacity, index + 1,
                              sizeof *reader->ranges);
    file->tensors[index].name = name;
    reader->ranges[index].tensor = index;
    reader->fields = 0;
    return 1;
}

static int tensor_field(HeaderReader *reader, const char *key)
{
    int field = !strcmp(key, "dtype")          ? HAS_DTYPE
                : !strcmp(key, "shape")        ? HAS_SHAPE
                : !strcmp(key, "data_offsets") ? HAS_OFFSETS
                                               : 0;
    if (!field)
        return REFUSE(reader, "%s: header: tensor %.100s: unknown key '%.100s'", path_of(reader),
                      current(reader)->name, key);
    if (reader->fields & field)
        return REFUSE(reader, "%s: header: tensor %.100s: key '%s' is given twice", path_of(reader),
                      current(reader)->name, key);
    reader->fields |= field;
    reader->pending = field;
    return 1;
}

static int on_key(void *context, const unsigned char *text, size_t n_bytes)
{
    HeaderReader *reader = context;
    SafeTensors *file = reader->file;
    char *key = keep_string(reader, text, n_bytes);
    if (!key) return 0;
    if (reader->place == IN_TENSOR) return tensor_field(reader, key);
    if (reader->place == IN_META) {
        file->meta = mem_grow(file->meta, &reader->meta_capacity, file->n_meta + 1,
                              sizeof *file->meta);
        file->meta[file->n_meta].key = key;
        return 1;
    }
    if (strcmp(key, "__metadata__")) return begin_tensor(reader, key);
    if (reader->have_meta)
        return REFUSE(reader, "%s: header: __metadata__ is given twice", path_of(reader));
    reader->have_meta = true;
    reader->pending = 1; /* the object that follows is the metadata, not a tensor */
    return 1;
}

static int set_dtype(HeaderReader *reader, const char *name)
{
    reader->pending = 0;
    for (int dtype = DT_NONE + 1; dtype < DT_COUNT; dtype++) {
        if (strcmp(name, dtype_names[dtype])) continue;
        current(reader)->tensor.dtype = (DType)dtype;
        return 1;
    }
    return REFUSE(reader,
                  "%s: tensor %.100s: dtype '%.40s' is not supported, wanted one of F32, "
                  "F64, BF16, F16, I32, I64, U8",
                  path_of(reader), current(reader)->name, name);
}

static int on_string(void *context, const unsigned char *text, size_t n_bytes)
{
    HeaderReader *reader = context;
    bool is_dtype = reader->place == IN_TENSOR && reader->pending == HAS_DTYPE;
    if (!is_dtype && reader->place != IN_META) return refuse_here(reader, "a string");
    char *value = keep_string(reader, text, n_bytes);
    if (!value) return 0;
    if (is_dtype) return set_dtype(reader, value);
    reader->file->meta[reader->file->n_meta++].value = value;
    return 1;
}

/* Digits only: the format knows neither signs nor fractions, and the value must fit. */
static bool parse_size(const char *text, size_t n_bytes, int64_t *out)
{
    int64_t value = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        if (__builtin_mul_overflow(value, 10, &value)) return false;
        if (__builtin_add_overflow(value, text[i] - '0', &value)) return false;
    }
    *out = value;
    return true;
}

static int on_number(void *context, const char *text, size_t n_bytes)
{
    HeaderReader *reader = context;
    int64_t value;
    if (reader->place != IN_SHAPE && reader->place != IN_OFFSETS)
        return refuse_here(reader, "a number");
    if (!parse_size(text, n_bytes, &value))
        return refuse_here(reader, "a number that is negative, a fraction or too large");
    if (reader->place == IN_OFFSETS) {
        Range *range = &reader->ranges[reader->file->n_tensors - 1];
        if (reader->n_offsets == 2) return refuse_here(reader, "a third number");
        *(reader->n_offsets++ == 0 ? &range->begin : &range->end) = value;
        return 1;
    }
    Shape *shape = &current(reader)->tensor.shape;
    if (shape->rank == SHAPE_MAX_RANK)
        return REFUSE(reader, "%s: tensor %.100s: has more than %d dims", path_of(reader),
                      current(reader)->name, SHAPE_MAX_RANK);
    shape->dim[shape->rank++] = value;
    return 1;
}

static int on_map_start(void *context)
{
    HeaderReader *reader = context;
    if (reader->place != AT_START && reader->place != IN_ROOT)
        return refuse_here(reader, "an object");
    reader->place = reader->place == AT_START ? IN_ROOT : reader->pending ? IN_META : IN_TENSOR;
    reader->pending = 0;
    return 1;
}

static int on_map_end(void *context)
{
    HeaderReader *reader = context;
    if (reader->place == IN_TENSOR && reader->fields != HAS_ALL)
        return REFUSE(reader, "%s: header: tensor %.100s: has no %s", path_of(reader),
                      current(reader)->name,
                      !(reader->fields & HAS_DTYPE)   ? "dtype"
                      : !(reader->fields & HAS_SHAPE) ? "shape"
                                                      : "data_offsets");
    reader->place = reader->place == IN_ROOT ? AT_END : IN_ROOT;
    return 1;
}

static int on_list_start(void *context)
{
    HeaderReader *reader = context;
    bool wanted = reader->place == IN_TENSOR &&
                  (reader->pending == HAS_SHAPE || reader->pending == HAS_OFFSETS);
    if (!wanted) return refuse_here(reader, "a list");
    reader->place = reader->pending == HAS_SHAPE ? IN_SHAPE : IN_OFFSETS;
    reader->pending = 0;
    reader->n_offsets = 0;
    return 1;
}

static int on_list_end(void *context)
{
    HeaderReader *reader = context;
    if (reader->place == IN_OFFSETS && reader->n_offsets != 2) return refuse_here(reader, "fewer");
    reader->place = IN_TENSOR;
    return 1;
}

static int on_null(void *context) { return refuse_here(context, "null"); }

static int on_boolean(void *context, int value)
{
    return refuse_here(context, value ? "true" : "false");
}

static const yajl_callbacks callbacks = {
    .yajl_null = on_null,
    .yajl_boolean = on_boolean,
    .yajl_number = on_number,
    .yajl_string = on_string,
    .yajl_start_map = on_map_start,
    .yajl_map_key = on_key,
    .yajl_end_map = on_map_end,
    .yajl_start_array = on_list_start,
    .yajl_end_array = on_list_end,
};

static Status parse_header(HeaderReader *reader, const unsigned char *json, size_t n_bytes)
{
    yajl_handle parser = yajl_alloc(&callbacks, NULL, reader);
    assert(parser);
    yajl_status parsed = yajl_parse(parser, json, n_bytes);
    if (parsed == yajl_status_ok) parsed = yajl_complete_parse(parser);
    Status status = reader->status;
    if (status == OK && parsed != yajl_status_ok) {
        unsigned char *reason = yajl_get_error(parser, 0, json, n_bytes);
        status = status_fail(E_FORMAT, "%s: header: not valid JSON: %.*s", path_of(reader),
                             (int)strcspn((const char *)reason, "\n"), (const char *)reason);
        yajl_free_error(parser, reason);
    }
    yajl_free(parser);
    return status;
}

/* ---- what must hold for the header as a whole ---- */

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static Status check_unique(const SafeTensors *file, const char **names, int n, const char *what)
{
    if (n == 0) return OK;
    qsort(names, (size_t)n, sizeof *names, compare_strings);
    for (int i = 1; i < n; i++)
        if (!strcmp(names[i - 1], names[i]))
            return status_fail(E_FORMAT, "%s: header: %s '%.100s' is given twice", file->path, what,
                               names[i]);
    return OK;
}

static Status check_names(const SafeTensors *file)
{
    int most = file->n_tensors > file->n_meta ? file->n_tensors : file->n_meta;
    const char **names = mem_alloc((size_t)most * sizeof *names);
    for (int i = 0; i < file->n_tensors; i++) names[i] = file->tensors[i].name;
    Status status = check_unique(file, names, file->n_tensors, "tensor");
    for (int i = 0; i < file->n_meta; i++) names[i] = file->meta[i].key;
    if (status == OK) status = check_unique(file, names, file->n_meta, "metadata key");
    free(names);
    return status;
}

static int compare_ranges(const void *a, const void *b)
{
    const Range *left = a, *right = b;
    if (left->begin != right->begin) return left->begin < right->begin ? -1 : 1;
    return left->end < right->end ? -1 : left->end > right->end;
}

static Status check_size(const SafeTensors *file, const NamedTensor *entry, const Range *range)
{
    int64_t bytes = (int64_t)dtype_size(entry->tensor.dtype);
    bool overflow = false;
    for (int i = 0; i < entry->tensor.shape.rank; i++)
        overflow |= __builtin_mul_overflow(bytes, entry->tensor.shape.dim[i], &bytes);
    if (overflow)
        return status_fail(E_FORMAT, "%s: tensor %.100s: its shape is too large", file->path,
                           entry->name);
    if (range->end < range->begin || range->end - range->begin != bytes)
        return status_fail(E_FORMAT,
                           "%s: tensor %.100s: data_offsets %lld to %lld, but dtype and shape need "
                           "%lld bytes",
                           file->path, entry->name, (long long)range->begin, (long long)range->end,
                           (long long)bytes);
    return OK;
}

/* Ranges must tile 0..data_bytes. Leaves `ranges` sorted by place; `tensor` still says whose
 * each one is. */
static Status check_layout(const SafeTensors *file, Range *ranges, int64_t data_bytes)
{
    int64_t position = 0;
    for (int i = 0; i < file->n_tensors; i++) TRY(check_size(file, &file->tensors[i], &ranges[i]));
    if (file->n_tensors) qsort(ranges, (size_t)file->n_tensors, sizeof *ranges, compare_ranges);
    for (int i = 0; i < file->n_tensors; i++) {
        if (ranges[i].begin != position)
            return status_fail(E_FORMAT,
                               "%s: tensor %.100s: its data starts at %lld, wanted %lld (data "
                               "must neither overlap nor leave holes)",
                               file->path, file->tensors[ranges[i].tensor].name,
                               (long long)ranges[i].begin, (long long)position);
        position = ranges[i].end;
    }
    if (position != data_bytes)
        return status_fail(E_FORMAT,
                           "%s: the header describes %lld bytes of data, the file holds %lld; it "
                           "is cut short or damaged",
                           file->path, (long long)position, (long long)data_bytes);
    return OK;
}

/* Points every tensor at its bytes; those that lie misaligned for their dtype are copied. */
static void bind_tensors(SafeTensors *file, const Range *ranges, char *data)
{
    file->copies = mem_alloc((size_t)file->n_tensors * sizeof *file->copies);
    for (int i = 0; i < file->n_tensors; i++) {
        Tensor *tensor = &file->tensors[ranges[i].tensor].tensor;
        size_t n_bytes = (size_t)(ranges[i].end - ranges[i].begin);
        tensor->data = data + ranges[i].begin;
        if ((uintptr_t)tensor->data % dtype_size(tensor->dtype) == 0) continue;
        file->copies[i] = mem_alloc(n_bytes);
        memcpy(file->copies[i], tensor->data, n_bytes);
        tensor->data = file->copies[i];
    }
}

/* ---- opening ---- */

static Status map_file(SafeTensors *file)
{
    struct stat info;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return status_fail(E_FILE, "%s: cannot be opened: %s", file->path, strerror(errno));
    Status status = OK;
    if (fstat(fd, &info))
        status = status_fail(E_FILE, "%s: %s", file->path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = status_fail(E_FILE, "%s: is not a file", file->path);
    else if (info.st_size < LENGTH_BYTES)
        status = status_fail(E_FORMAT, "%s: %lld bytes is too short for a safetensors file",
                             file->path, (long long)info.st_size);
    if (status == OK) {
        file->mapping_bytes = (size_t)info.st_size;
        file->mapping = mmap(NULL, file->mapping_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file->mapping == MAP_FAILED) {
            file->mapping = NULL;
            status = status_fail(E_MEMORY, "%s: cannot be mapped: %s", file->path, strerror(errno));
        }
    }
    close(fd);
    return status;
}

static Status find_header(const SafeTensors *file, size_t *header_bytes)
{
    uint64_t length;
    memcpy(&length, file->mapping, LENGTH_BYTES);
    if (length > MAX_HEADER_BYTES)
        return status_fail(
            E_FORMAT,
            "%s: header of %llu bytes, at most %d are allowed; is this a safetensors "
            "file?",
            file->path, (unsigned long long)length, MAX_HEADER_BYTES);
    if (length > file->mapping_bytes - LENGTH_BYTES)
        return status_fail(E_FORMAT,
                           "%s: header of %llu bytes in a file of %zu; it is cut short or damaged",
                           file->path, (unsigned long long)length, file->mapping_bytes);
    if (length == 0 || ((const char *)file->mapping)[LENGTH_BYTES] != '{')
        return status_fail(E_FORMAT, "%s: header: does not start with '{'", file->path);
    *header_bytes = (size_t)length;
    return OK;
}

static Status read_header(SafeTensors *file)
{
    size_t header_bytes = 0;
    TRY(find_header(file, &header_bytes));
    const unsigned char *json = (const unsigned char *)file->mapping + LENGTH_BYTES;
    int64_t data_bytes = (int64_t)(file->mapping_bytes - LENGTH_BYTES - header_bytes);
    file->strings = mem_alloc(header_bytes);
    HeaderReader reader = {.file = file, .next_string = file->strings};
    Status status = parse_header(&reader, json, header_bytes);
    if (status == OK) status = check_names(file);
    if (status == OK) status = check_layout(file, reader.ranges, data_bytes);
    if (status == OK)
        bind_tensors(file, reader.ranges, (char *)file->mapping + LENGTH_BYTES + header_bytes);
    free(reader.ranges);
    return status;
}

Status safetensors_open(const char *path, SafeTensors **out)
{
    SafeTensors *file = mem_alloc(sizeof *file);
    file->path = mem_string(path);
    Status status = map_file(file);
    if (status == OK) status = read_header(file);
    if (status != OK) {
        safetensors_close(file);
        return status;
    }
    *out = file;
    return OK;
}

void safetensors_close(SafeTensors *file)
{
    if (!file) return;
    for (int i = 0; file->copies && i < file->n_tensors; i++) free(file->copies[i]);
    if (file->mapping) munmap(file->mapping, file->mapping_bytes);
    free(file->copies);
    free(file->tensors);
    free(file->meta);
    free(file->strings);
    free(file->path);
    free(file);
}

const Tensor *safetensors_find(const SafeTensors *file, const char *name)
{
    for (int i = 0; i < file->n_tensors; i++)
        if (!strcmp(file->tensors[i].name, name)) return &file->tensors[i].tensor;
    return NULL;
}

const char *safetensors_meta(const SafeTensors *file, const char *key)
{
    for (int i = 0; i < file->n_meta; i++)
        if (!strcmp(file->meta[i].key, key)) return file->meta[i].value;
    return NULL;
}
