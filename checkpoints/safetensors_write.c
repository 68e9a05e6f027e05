/* Writer of safetensors files. See safetensors.h.
 *
 * Rule: data lies by falling element size, and the header is padded to 8 bytes, so every tensor is
 * aligned for its dtype in a mapped file. (Readers that take views of the mapping, PyTorch's among
 * them, need that.)
 */
#include <yajl/yajl_gen.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoints/safetensors.h"

enum { ALIGN_BYTES = 8, MAX_DTYPE_BYTES = 8 };

/* order[k] = index of the k-th tensor in the data area: stable, falling element size. */
static int *data_order(int n, const NamedTensor *tensors)
{
    int *order = mem_alloc((size_t)n * sizeof *order), placed = 0;
    for (size_t bytes = MAX_DTYPE_BYTES; bytes > 0; bytes--)
        for (int i = 0; i < n; i++)
            if (dtype_size(tensors[i].tensor.dtype) == bytes) order[placed++] = i;
    assert(placed == n);
    return order;
}

static bool gen_string(yajl_gen gen, const char *text)
{
    return yajl_gen_string(gen, (const unsigned char *)text, strlen(text)) == yajl_gen_status_ok;
}

static bool gen_meta(yajl_gen gen, int n, const MetaPair *meta)
{
    bool good = gen_string(gen, "__metadata__");
    yajl_gen_map_open(gen);
    for (int i = 0; i < n; i++)
        good = good && gen_string(gen, meta[i].key) && gen_string(gen, meta[i].value);
    yajl_gen_map_close(gen);
    return good;
}

static bool gen_tensor(yajl_gen gen, const NamedTensor *entry, int64_t begin)
{
    const Tensor *tensor = &entry->tensor;
    bool good = gen_string(gen, entry->name);
    yajl_gen_map_open(gen);
    gen_string(gen, "dtype");
    gen_string(gen, safetensors_dtype_name(tensor->dtype));
    gen_string(gen, "shape");
    yajl_gen_array_open(gen);
    for (int i = 0; i < tensor->shape.rank; i++) yajl_gen_integer(gen, tensor->shape.dim[i]);
    yajl_gen_array_close(gen);
    gen_string(gen, "data_offsets");
    yajl_gen_array_open(gen);
    yajl_gen_integer(gen, begin);
    yajl_gen_integer(gen, begin + (int64_t)tensor_bytes(tensor));
    yajl_gen_array_close(gen);
    yajl_gen_map_close(gen);
    return good;
}

/* The whole header; every string in it is checked to be UTF-8 by yajl. */
static Status gen_header(yajl_gen gen, const char *path, int n, const NamedTensor *tensors,
                         const int64_t *begin, int n_meta, const MetaPair *meta)
{
    yajl_gen_map_open(gen);
    if (n_meta > 0 && !gen_meta(gen, n_meta, meta))
        return status_fail(E_FORMAT, "%s: cannot be written: a metadata string is not UTF-8", path);
    for (int i = 0; i < n; i++)
        if (!gen_tensor(gen, &tensors[i], begin[i]))
            return status_fail(E_FORMAT, "%s: cannot be written: name of tensor %d is not UTF-8",
                               path, i);
    yajl_gen_map_close(gen);
    return OK;
}

static Status put_header(FileWriter *writer, const char *path, int n, const NamedTensor *tensors,
                         const int64_t *begin, int n_meta, const MetaPair *meta)
{
    yajl_gen gen = yajl_gen_alloc(NULL);
    assert(gen);
    yajl_gen_config(gen, yajl_gen_validate_utf8, 1);
    Status status = gen_header(gen, path, n, tensors, begin, n_meta, meta);
    const unsigned char *json;
    size_t json_bytes;
    yajl_gen_get_buf(gen, &json, &json_bytes);
    size_t padding = (ALIGN_BYTES - json_bytes % ALIGN_BYTES) % ALIGN_BYTES;
    uint64_t length = json_bytes + padding;
    if (status == OK) status = file_writer_put(writer, &length, sizeof length);
    if (status == OK) status = file_writer_put(writer, json, json_bytes);
    if (status == OK) status = file_writer_put(writer, "        ", padding);
    yajl_gen_free(gen);
    return status;
}

static Status put_all(FileWriter *writer, const char *path, int n, const NamedTensor *tensors,
                      int n_meta, const MetaPair *meta)
{
    int *order = data_order(n, tensors);
    int64_t *begin = mem_alloc((size_t)n * sizeof *begin), position = 0;
    for (int k = 0; k < n; k++) {
        begin[order[k]] = position;
        position += (int64_t)tensor_bytes(&tensors[order[k]].tensor);
    }
    Status status = put_header(writer, path, n, tensors, begin, n_meta, meta);
    for (int k = 0; k < n && status == OK; k++) {
        const Tensor *tensor = &tensors[order[k]].tensor;
        status = file_writer_put(writer, tensor->data, tensor_bytes(tensor));
    }
    free(order);
    free(begin);
    return status;
}

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
    }
    if (status == OK) qsort(names, (size_t)n, sizeof *names, compare_names);
    for (int i = 1; i < n && status == OK; i++)
        if (!strcmp(names[i - 1], names[i]))
            status = status_fail(E_FORMAT, "%s: cannot be written: two tensors are named %s", path,
                                 names[i]);
    free(names);
    return status;
}

Status safetensors_write_with(const FileOps *ops, const char *path, int n_tensors,
                              const NamedTensor *tensors, int n_meta, const MetaPair *meta)
{
    FileWriter *writer;
    TRY(check_tensors(path, n_tensors, tensors));
    TRY(file_writer_open(ops, path, &writer));
    Status status = put_all(writer, path, n_tensors, tensors, n_meta, meta);
    if (status == OK) return file_writer_commit(writer);
    file_writer_discard(writer);
    return status;
}

Status safetensors_write(const char *path, int n_tensors, const NamedTensor *tensors, int n_meta,
                         const MetaPair *meta)
{
    return safetensors_write_with(&file_ops_system, path, n_tensors, tensors, n_meta, meta);
}
