/* Python pickles as torch.save writes them, read as data: no code from a file is ever run.
 *
 * Used by checkpoints/torch_file on the member data.pkl. A pickle is a program for a small stack
 * machine; this one knows only the instructions of protocols 2 to 5 that build dicts, lists,
 * tuples, strings, numbers, booleans and None, and of all importable names only those that make a
 * tensor: collections.OrderedDict, torch._utils._rebuild_tensor_v2, torch._utils._rebuild_parameter
 * and the storage classes. Anything else is named and refused.
 *
 * Invariants
 *  1. Nothing recurses, however deep a value nests; a value may contain itself.
 *  2. Memory comes out of the budget of the file the pickle lies in; what would need more is
 *     refused before it is allocated.
 *  3. Tensors and storages are what the pickle says of them, with non-negative sizes; whether they
 *     fit the bytes of a storage is for torch_file to judge.
 * source  Python's pickletools (the list of instructions); torch._weights_only_unpickler
 */
#ifndef RETORT_CHECKPOINTS_PICKLE_H
#define RETORT_CHECKPOINTS_PICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/tensor.h"

typedef enum PickleKind {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INT,
    PICKLE_FLOAT,
    PICKLE_TEXT,
    PICKLE_LIST,
    PICKLE_TUPLE,
    PICKLE_DICT,
    PICKLE_GLOBAL, /* one of the names that are allowed */
    PICKLE_STORAGE,
    PICKLE_TENSOR,
} PickleKind;

typedef struct PickleStorage {
    DType dtype;     /* booleans are DT_U8 */
    const char *key; /* its bytes are the member data/KEY */
    int64_t n_elems;
} PickleStorage;

typedef struct PickleTensor {
    const PickleStorage *storage;
    int64_t offset; /* of the first element, in elements */
    Shape shape;
    int64_t stride[SHAPE_MAX_RANK]; /* in elements */
} PickleTensor;

typedef struct PickleValue PickleValue;
struct PickleValue {
    PickleKind kind;
    int n_items; /* of a list, tuple or dict; a dict has two per entry: key, value, key, value .. */
    int capacity;
    union {
        int64_t integer;  /* BOOL, INT, GLOBAL */
        double real;      /* FLOAT */
        const char *text; /* TEXT: UTF-8 without zero bytes */
        const PickleValue **items;
        const PickleStorage *storage;
        const PickleTensor *tensor;
    };
};

typedef struct Pickle Pickle;

/* pickle_read: runs the pickle of n_bytes.
 * path        for messages
 * left_bytes  that may still be allocated for the file; what is taken here is subtracted. It must
 *             outlive the call only
 * errors  E_FORMAT with the byte, what was met and what is allowed */
Status pickle_read(const char *path, const void *bytes, size_t n_bytes, size_t *left_bytes,
                   Pickle **out);
void pickle_free(Pickle *pickle); /* and all its values; NULL is fine */
const PickleValue *pickle_root(const Pickle *pickle);

const char *pickle_kind_name(PickleKind kind); /* "a dict" */

/* pickle_storage_class: "FloatStorage", the class of torch whose elements are of this dtype; NULL
 * if there is none. */
const char *pickle_storage_class(DType dtype);

/* pickle_utf8: whether n_bytes of text are UTF-8 (no surrogates, no overlong forms). */
bool pickle_utf8(const char *text, size_t n_bytes);

#endif
