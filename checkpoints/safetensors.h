/* safetensors files: named tensors with dtype and shape, read in place, written atomically.
 *
 * Knows tensors as name + dtype + shape + bytes only. Used by train/ for weights, training states
 * and trace.
 *
 * Format: u64 little-endian header length, JSON header {"NAME":{"dtype","shape","data_offsets"},
 * "__metadata__":{string:string}}, then the data. Header at most 100 MB; offsets tile the data area
 * without holes or overlaps; all of it is checked before anything is trusted. A file must not be
 * rewritten in place while it is open here (nobody does: files are replaced).
 * source  the safetensors format description, version 0.4
 */
#ifndef RETORT_CHECKPOINTS_SAFETENSORS_H
#define RETORT_CHECKPOINTS_SAFETENSORS_H

#include "base/file.h"
#include "base/status.h"
#include "base/tensor.h"
#include "checkpoints/digest.h" /* file_sha256 */

typedef struct NamedTensor {
    const char *name;
    Tensor tensor; /* host memory */
} NamedTensor;

typedef struct MetaPair {
    const char *key, *value;
} MetaPair;

typedef struct SafeTensors { /* an open file, mapped read-only */
    char *path;
    NamedTensor *tensors; /* in the order of the header; data points into the mapping */
    int n_tensors;
    MetaPair *meta;
    int n_meta;
    void *mapping;
    size_t mapping_bytes;
    char *strings; /* memory of all names, keys and values */
    void **copies; /* of tensors that lie misaligned in the file; n_tensors entries, mostly NULL */
} SafeTensors;

/* safetensors_open: maps and validates a file.
 * errors  E_FILE; E_FORMAT with file, what is wrong, got and wanted */
Status safetensors_open(const char *path, SafeTensors **out);
void safetensors_close(SafeTensors *file);
const Tensor *safetensors_find(const SafeTensors *file, const char *name); /* NULL if absent */
const char *safetensors_meta(const SafeTensors *file, const char *key);    /* NULL if absent */

/* safetensors_write: replaces `path` (base/file.h) by a file with these tensors and strings. The
 * header keeps the caller's order; the data lies by falling size of its element, so that every
 * tensor is aligned.
 * errors  E_FILE naming the step that failed, the old file is then untouched; E_FORMAT if a name
 *         is not UTF-8 or given twice; E_UNSUPPORTED for a tensor without dtype */
Status safetensors_write(const char *path, int n_tensors, const NamedTensor *tensors, int n_meta,
                         const MetaPair *meta);

/* safetensors_write_with: the same through the caller's system calls, which may fail when a test
 * wants it. */
Status safetensors_write_with(const FileOps *ops, const char *path, int n_tensors,
                              const NamedTensor *tensors, int n_meta, const MetaPair *meta);

const char *safetensors_dtype_name(DType dtype); /* "F32"; NULL for DT_NONE */

#endif
