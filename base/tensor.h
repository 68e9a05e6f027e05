/* Dtype, shape and the plain tensor view that every layer shares.
 *
 * The alphabet of shapes, used in all comments:
 *   N images   C channels   H W height and width   M masks (prompts) of an image   P points of a
 * prompt T tokens   D model width   h attention heads   hd head dim   S side of a square training
 * image Row-major, outermost first, as PyTorch prints them. Maps are stored N,H,W,C.
 *
 * Invariants: a Tensor is contiguous; rank 0 is a scalar of one element; dims are >= 0.
 */
#ifndef RETORT_BASE_TENSOR_H
#define RETORT_BASE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum DType {
    DT_NONE,
    DT_F32,
    DT_F64,
    DT_BF16,
    DT_F16,
    DT_I32,
    DT_I64,
    DT_U8,
    DT_COUNT
} DType;

enum { SHAPE_MAX_RANK = 8 };

typedef struct Shape {
    int rank;
    int64_t dim[SHAPE_MAX_RANK];
} Shape;

typedef struct Tensor {
    DType dtype; /* DT_NONE: an optional operand that is absent */
    Shape shape;
    void *data; /* NULL until memory is bound */
} Tensor;

/* SHAPE(2, 3, 4): a Shape of rank 3. */
#define SHAPE(...)                                                              \
    ((Shape){.rank = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
             .dim = {__VA_ARGS__}})
#define SHAPE_SCALAR ((Shape){.rank = 0})

size_t dtype_size(DType dtype);      /* bytes of one element; 0 for DT_NONE */
const char *dtype_name(DType dtype); /* PyTorch's name: "float32", "bfloat16", "int64", ... */
bool dtype_is_float(DType dtype);

int64_t shape_elems(Shape shape); /* product of dims; 1 for a scalar */
bool shape_equal(Shape a, Shape b);
int64_t shape_dim_from_end(Shape shape, int back); /* back = 1: last dim; 1 beyond the rank */

/* shape_broadcast: numpy's rule (dims aligned at the end, 1 stretches).
 * errors  false if a pair of dims differs and neither is 1; *out is then undefined
 */
bool shape_broadcast(Shape a, Shape b, Shape *out);

/* shape_format: writes "2,3,4" ("scalar" for rank 0) into buffer, returns buffer. */
const char *shape_format(Shape shape, char *buffer, size_t buffer_bytes);

size_t tensor_bytes(const Tensor *tensor);

/* Conversions of single values; round to nearest even, NaN stays NaN, overflow becomes infinity. */
uint16_t bf16_from_f32(float value);
float bf16_to_f32(uint16_t bits);
uint16_t f16_from_f32(float value);
float f16_to_f32(uint16_t bits);

/* tensor_convert: dst[i] = (dst dtype) src[i] for n_elems elements of any two float dtypes, or of
 * two equal dtypes of any kind. Asserts on other pairs. */
void tensor_convert(void *dst, DType dst_dtype, const void *src, DType src_dtype, int64_t n_elems);

#endif
