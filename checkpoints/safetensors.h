/* safetensors files: named tensors with dtype and shape, read in place, written atomically.
 *
 * Knows tensors as name + dtype + shape + bytes only. Used by train/ for weights, training states and trace.
 *
 * Format: u64 little-endian header length, JSON header {"NAME":{"dtype","shape","data_offsets"},
 * "__metadata__":{string:string}}, then the data. Header at most 100 MB; offsets tile the data area without
 * holes or overlaps; all of it is checked before anything is trusted.
 * source  the safetensors format description, version 0.4
 */
#ifndef RETORT_CHECKPOINTS_SAFETENSORS_H
#define RETORT_CHECKPOINTS_SAFETENSORS_H

#include "base/status.h"
#include "base/tensor.h"

typedef struct NamedTensor {
    const char *name;
    Tensor tensor; /* host memory */
} NamedTensor;

typedef struct MetaPair { const char *key, *value; } MetaPair;

typedef struct SafeTensors { /* an open file, mapped read-only */
    char *path;
    NamedTensor *tensors; /* in file order; data points into the mapping */
    int n_tensors;
    MetaPair *meta;
    int n_meta;
    void *mapping;
    size_t mapping_bytes;
    void *strings;
} SafeTensors;

/* safetensors_open: maps and validates a file.
 * errors  E_FILE; E_FORMAT with file, what is wrong, got and wanted */
Status safetensors_open(const char *path, SafeTensors **out);
void safetensors_close(SafeTensors *file);
const Tensor *safetensors_find(const SafeTensors *file, const char *name); /* NULL if absent */
const char *safetensors_meta(const SafeTensors *file, const char *key);    /* NULL if absent */

/* safetensors_write: to a temporary beside `path`, fsync, rename, fsync of the folder.
 * errors  E_FILE naming the step that failed; the old file is then untouched and the temporary is removed */
Status safetensors_write(const char *path, int n_tensors, const NamedTensor *tensors, int n_meta,
                         const MetaPair *meta);

/* file_sha256: hex digest (64 characters and a NUL) of a whole file. errors  E_FILE */
Status file_sha256(const char *path, char hex[65]);

#endif
