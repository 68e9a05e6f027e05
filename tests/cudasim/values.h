/* Elements of the dtypes that the libraries' stand-ins compute with. */
#ifndef RETORT_TESTS_CUDASIM_VALUES_H
#define RETORT_TESTS_CUDASIM_VALUES_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/tensor.h"

static inline double value_load(const void *base, DType dtype, int64_t i)
{
    if (dtype == DT_F32) return ((const float *)base)[i];
    uint16_t bits = ((const uint16_t *)base)[i];
    assert(dtype == DT_BF16 || dtype == DT_F16);
    return dtype == DT_BF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

static inline void value_store(void *base, DType dtype, int64_t i, double value)
{
    if (dtype == DT_F32)
        ((float *)base)[i] = (float)value;
    else
        ((uint16_t *)base)[i] = dtype == DT_BF16 ? bf16_from_f32((float)value)
                                                 : f16_from_f32((float)value);
}

/* value_tf32: what a tensor core sees of an f32 with 10 bits of mantissa. */
static inline double value_tf32(double value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    bits = (bits + 0x1000) & 0xffffe000u;
    memcpy(&f, &bits, sizeof f);
    return f;
}

#endif
