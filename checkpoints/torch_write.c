/* Writer of PyTorch checkpoints. See torch_file.h.
 *
 * The pickle is of protocol 2 and uses no memo, which every unpickler accepts. Members are those
 * that PyTorch 2 writes; the archive's folder is "archive", PyTorch's own default.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoints/pickle.h"
#include "checkpoints/torch_file.h"
#include "checkpoints/zip.h"

#define ROOT "archive/"

typedef struct Bytes {
    char *data;
    int n, capacity;
} Bytes;

static void put(Bytes *out, const void *data, size_t n_bytes)
{
    out->data = mem_grow(out->data, &out->capacity, out->n + (int)n_bytes, 1);
    memcpy(out->data + out->n, data, n_bytes);
    out->n += (int)n_bytes;
}

static void put_code(Bytes *out, const char *code) { put(out, code, strlen(code)); }

/* BINUNICODE */
static void put_text(Bytes *out, const char *text)
{
    uint32_t n_bytes = (uint32_t)strlen(text);
    put_code(out, "X");
    put(out, &n_bytes, sizeof n_bytes);
    put(out, text, n_bytes);
}

/* LONG1 of 8 bytes: long enough for every count and stride. */
static void put_int(Bytes *out, int64_t value)
{
    put_code(out, "\x8a\x08");
    put(out, &value, sizeof value);
}

static void put_ints(Bytes *out, int n, const int64_t *values)
{
    put_code(out, "(");
    for (int i = 0; i < n; i++) put_int(out, values[i]);
    put_code(out, "t");
}

/* torch.Tensor.stride() of a contiguous tensor; a dim of 0 counts as 1. */
static void contiguous_stride(Shape shape, int64_t *stride)
{
    int64_t step = 1;
    for (int i = shape.rank - 1; i >= 0; i--) {
        stride[i] = step;
        step *= shape.dim[i] ? shape.dim[i] : 1;
    }
}

/* _rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()) */
static void put_tensor(Bytes *out, const Tensor *tensor, int index)
{
    char key[16], storage_class[40];
    int64_t stride[SHAPE_MAX_RANK];
    snprintf(key, sizeof key, "%d", index);
    snprintf(storage_class, sizeof storage_class, "ctorch\n%s\n",
             pickle_storage_class(tensor->dtype));
    contiguous_stride(tensor->shape, stride);
    put_code(out, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(out, "storage");
    put_code(out, storage_class);
    put_text(out, key);
    put_text(out, "cpu");
    put_int(out, shape_elems(tensor->shape));
    put_code(out, "tQ");
    put_int(out, 0);
    put_ints(out, tensor->shape.rank, tensor->shape.dim);
    put_ints(out, tensor->shape.rank, stride);
    put_code(out, "\x89"
                  "ccollections\nOrderedDict\n)RtR");
}

static void put_state_dict(Bytes *out, int n, const NamedTensor *tensors)
{
    put_code(out, "\x80\x02"
                  "ccollections\nOrderedDict\n)R(");
    for (int i = 0; i < n; i++) {
        put_text(out, tensors[i].name);
        put_tensor(out, &tensors[i].tensor, i);
    }
    put_code(out, "u.");
}

static Status put_members(ZipWriter *zip, int n, const NamedTensor *tensors)
{
    Bytes pickle = {0};
    put_state_dict(&pickle, n, tensors);
    Status status = zip_writer_put(zip, ROOT "data.pkl", pickle.data, (size_t)pickle.n);
    free(pickle.data);
    TRY(status);
    TRY(zip_writer_put(zip, ROOT "byteorder", "little", 6));
    for (int i = 0; i < n; i++) {
        char name[40];
        snprintf(name, sizeof name, ROOT "data/%d", i);
        TRY(zip_writer_put(zip, name, tensors[i].tensor.data, tensor_bytes(&tensors[i].tensor)));
    }
    return zip_writer_put(zip, ROOT "version", "3\n", 2);
}

/* ---- checks ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static Status check_tensors(const char *path, int n, const NamedTensor *tensors)
{
    const char **names = mem_alloc((size_t)n * sizeof *names);
    Status status = OK;
    for (int i = 0; i < n && status == OK; i++) {
        names[i] = tensors[i].name;
        if (tensors[i].tensor.dtype == DT_NONE)
            status = status_fail(E_UNSUPPORTED, "%s: cannot be written: tensor %s has no dtype",
                                 path, names[i]);
        else if (!pickle_utf8(names[i], strlen(names[i])))
            status = status_fail(E_FORMAT, "%s: cannot be written: name of tensor %d is not UTF-8",
                                 path, i);
    }
    if (status == OK && n) qsort(names, (size_t)n, sizeof *names, compare_names);
    for (int i = 1; i < n && status == OK; i++)
        if (!strcmp(names[i - 1], names[i]))
            status = status_fail(E_FORMAT, "%s: cannot be written: two tensors are named %s", path,
                                 names[i]);
    free(names);
    return status;
}

Status torch_file_write_with(const FileOps *ops, const char *path, int n_tensors,
                             const NamedTensor *tensors)
{
    ZipWriter *zip;
    TRY(check_tensors(path, n_tensors, tensors));
    TRY(zip_writer_open(ops, path, &zip));
    Status status = put_members(zip, n_tensors, tensors);
    if (status == OK) return zip_writer_commit(zip);
    zip_writer_discard(zip);
    return status;
}

Status torch_file_write(const char *path, int n_tensors, const NamedTensor *tensors)
{
    return torch_file_write_with(&file_ops_system, path, n_tensors, tensors);
}
