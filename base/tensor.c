/* Dtypes, shapes and conversions. See tensor.h. */
#include "base/tensor.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
    bool is_float;
} dtype_table[DT_COUNT] = {
    [DT_NONE] = {"none", 0, false},  [DT_F32] = {"float32", 4, true},
    [DT_F64] = {"float64", 8, true}, [DT_BF16] = {"bfloat16", 2, true},
    [DT_F16] = {"float16", 2, true}, [DT_I32] = {"int32", 4, false},
    [DT_I64] = {"int64", 8, false},  [DT_U8] = {"uint8", 1, false},
};

size_t dtype_size(DType dtype) { return dtype_table[dtype].size; }
const char *dtype_name(DType dtype) { return dtype_table[dtype].name; }
bool dtype_is_float(DType dtype) { return dtype_table[dtype].is_float; }

int64_t shape_elems(Shape shape)
{
    int64_t n = 1;
    for (int i = 0; i < shape.rank; i++) n *= shape.dim[i];
    return n;
}

bool shape_equal(Shape a, Shape b)
{
    if (a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; i++)
        if (a.dim[i] != b.dim[i]) return false;
    return true;
}

int64_t shape_dim_from_end(Shape shape, int back)
{
    return back <= shape.rank ? shape.dim[shape.rank - back] : 1;
}

bool shape_broadcast(Shape a, Shape b, Shape *out)
{
    out->rank = a.rank > b.rank ? a.rank : b.rank;
    for (int back = 1; back <= out->rank; back++) {
        int64_t da = shape_dim_from_end(a, back), db = shape_dim_from_end(b, back);
        if (da != db && da != 1 && db != 1) return false;
        out->dim[out->rank - back] = da == 1 ? db : da;
    }
    return true;
}

const char *shape_format(Shape shape, char *buffer, size_t buffer_bytes)
{
    if (shape.rank == 0) snprintf(buffer, buffer_bytes, "scalar");
    size_t used = 0;
    for (int i = 0; i < shape.rank && used < buffer_bytes; i++)
        used += (size_t)snprintf(buffer + used, buffer_bytes - used, i ? ",%lld" : "%lld",
                                 (long long)shape.dim[i]);
    return buffer;
}

size_t tensor_bytes(const Tensor *tensor)
{
    return (size_t)shape_elems(tensor->shape) * dtype_size(tensor->dtype);
}

static uint32_t f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static float f32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

uint16_t bf16_from_f32(float value)
{
    uint32_t bits = f32_bits(value);
    if (value != value)
        return (uint16_t)(bits >> 16) | 0x40; /* rounding could turn a NaN into infinity */
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float bf16_to_f32(uint16_t bits) { return f32_of_bits((uint32_t)bits << 16); }

uint16_t f16_from_f32(float value)
{
    _Float16 half = (_Float16)value;
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
}

float f16_to_f32(uint16_t bits)
{
    _Float16 half;
    memcpy(&half, &bits, 2);
    return (float)half;
}

static double load_float(const void *data, DType dtype, int64_t i)
{
    switch (dtype) {
    case DT_F32: return ((const float *)data)[i];
    case DT_F64: return ((const double *)data)[i];
    case DT_BF16: return bf16_to_f32(((const uint16_t *)data)[i]);
    case DT_F16: return f16_to_f32(((const uint16_t *)data)[i]);
    default: assert(!"not a float dtype"); return 0;
    }
}

static void store_float(void *data, DType dtype, int64_t i, double value)
{
    switch (dtype) {
    case DT_F32: ((float *)data)[i] = (float)value; break;
    case DT_F64: ((double *)data)[i] = value; break;
    case DT_BF16: ((uint16_t *)data)[i] = bf16_from_f32((float)value); break;
    case DT_F16: ((uint16_t *)data)[i] = f16_from_f32((float)value); break;
    default: assert(!"not a float dtype");
    }
}

void tensor_convert(void *dst, DType dst_dtype, const void *src, DType src_dtype, int64_t n_elems)
{
    if (dst_dtype == src_dtype) {
        memmove(dst, src, (size_t)n_elems * dtype_size(src_dtype));
        return;
    }
    for (int64_t i = 0; i < n_elems; i++)
        store_float(dst, dst_dtype, i, load_float(src, src_dtype, i));
}
