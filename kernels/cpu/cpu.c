/* Opens the CPU backend, dispatches binds, owns host memory, and moves rows between storage and
 * f32.
 *
 * Called by kernels/backend.c (cpu_open) and by every kernel file of this folder (cpu_load,
 * cpu_store, ...). Must hold: dtypes are checked here once, against the types string of ops.def, so
 * that kernels need not.
 */
#include "kernels/cpu/cpu.h"

#include "base/memory.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/onednn.h"

#include <assert.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE_BYTES = 2 << 20, PAGE_BYTES = 4096 };

typedef Status (*BindFn)(Backend *backend, KernelCall *call);

static const BindFn binds[OP_COUNT] = {
#define DIFF(ID, name, Attr, types, needs, flags, ulps) [OP_##ID] = cpu_##name,
#define PLAIN(ID, name, Attr, types, flags, ulps) [OP_##ID] = cpu_##name,
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN
};

/* A view is another shape for the same memory; the engine resolves it and never binds one. */
Status cpu_reshape(Backend *backend, KernelCall *call)
{
    (void)backend, (void)call;
    assert(!"views have no kernel");
    return OK;
}

static Status bind(Backend *backend, KernelCall *call)
{
    assert(call->op > OP_NONE && call->op < OP_COUNT);
    call->n_threads = backend->n_threads;
    TRY(call_check_dtypes(call, "cpu"));
    return binds[call->op](backend, call);
}

/* ---- host memory ---- */

static size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/* Returns `bytes` of anonymous memory at a 2 MiB boundary, or NULL. mmap knows only 4 KiB, so one
 * huge page more is mapped and what lies outside is given back. */
static void *map_aligned(size_t bytes)
{
    char *map = mmap(NULL, bytes + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return NULL;
    size_t before = round_up((size_t)map, HUGE_PAGE_BYTES) - (size_t)map;
    if (before) munmap(map, before);
    munmap(map + before + bytes, HUGE_PAGE_BYTES - before);
    return map + before;
}

/* One write per page, by the threads that will compute: all page faults happen now, not in the
 * first step, and on machines with several memory nodes the pages spread over them. */
static void touch_pages(char *memory, size_t bytes, int n_threads)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (size_t i = 0; i < bytes; i += PAGE_BYTES) ((volatile char *)memory)[i] = 0;
}

static Status alloc_host(Backend *backend, size_t bytes, void **out)
{
    size_t rounded = round_up(bytes ? bytes : 1, HUGE_PAGE_BYTES);
    char *memory = map_aligned(rounded);
    if (!memory)
        return status_fail(E_MEMORY,
                           "cpu: cannot allocate %.1f MiB of host memory; use a smaller batch, "
                           "chunk or image",
                           (double)bytes / (1 << 20));
    madvise(memory, rounded, MADV_HUGEPAGE); /* advice only: without huge pages all still works */
    touch_pages(memory, rounded, backend->n_threads);
    *out = memory;
    return OK;
}

static void free_host(Backend *backend, void *memory, size_t bytes)
{
    (void)backend;
    if (memory) munmap(memory, round_up(bytes ? bytes : 1, HUGE_PAGE_BYTES));
}

static Status copy_host(Backend *backend, void *dst, const void *src, size_t bytes)
{
    (void)backend;
    memcpy(dst, src, bytes);
    return OK;
}

static Status wait_host(Backend *backend)
{
    (void)backend;
    return OK;
}

static void close_host(Backend *backend)
{
    onednn_engine_free(backend->context);
    free(backend);
}

Status cpu_open(int n_threads, Backend **out)
{
    OnednnEngine *engine = NULL;
    TRY(onednn_engine_open(&engine));
    Backend *backend = mem_alloc(sizeof *backend);
    *backend = (Backend){
        .name = "cpu",
        .n_threads = n_threads > 0 ? n_threads : omp_get_num_procs(),
        .low = onednn_has_bf16() ? DT_BF16 : DT_F32,
        .context = engine,
        .bind = bind,
        .alloc = alloc_host,
        .free = free_host,
        .upload = copy_host,
        .download = copy_host,
        .wait = wait_host,
        .close = close_host,
    };
    *out = backend;
    return OK;
}

/* ---- rows ---- */

static void f32_from_bf16(const uint16_t *restrict src, int64_t n, uint32_t *restrict dst_bits)
{
    for (int64_t i = 0; i < n; i++) dst_bits[i] = (uint32_t)src[i] << 16;
}

/* Round to nearest even on the bits; a NaN keeps its upper half and is made quiet, lest rounding
 * carry it into infinity. */
static void bf16_of_f32(const uint32_t *restrict src_bits, int64_t n, uint16_t *restrict dst)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = src_bits[i];
        uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        uint32_t quiet = (bits >> 16) | 0x40;
        dst[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
    }
}

/* Halves are converted by arithmetic on the bits: the compiler makes no vectors of _Float16.
 * The exponent's bias differs by 112, which a product with 2^112 mends exactly, subnormals
 * included. */
static void f32_from_f16(const uint16_t *restrict src, int64_t n, float *restrict dst)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t magnitude = src[i] & 0x7fffu;
        uint32_t scaled = math_bits(math_from_bits(magnitude << 13) * 0x1p112f);
        uint32_t special = magnitude << 13 | 0x7f800000u; /* infinity and NaN */
        uint32_t bits = magnitude >= 0x7c00u ? special : scaled;
        dst[i] = math_from_bits(bits | (uint32_t)(src[i] & 0x8000u) << 16);
    }
}

/* To nearest even. Normal results are rounded on the bits; for subnormal ones (below 2^-14) the sum
 * with 0.5, whose last bit is worth 2^-24 as theirs is, does the rounding. */
static void f16_of_f32(const float *restrict src, int64_t n, uint16_t *restrict dst)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = math_bits(src[i]), magnitude = bits & 0x7fffffffu;
        uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
        uint32_t subnormal = math_bits(math_from_bits(magnitude) + 0.5f) - 0x3f000000u;
        uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
        half = magnitude >= 0x477ff000u ? 0x7c00u : half; /* 65,520 and above */
        half = magnitude > 0x7f800000u ? 0x7e00u : half;
        dst[i] = (uint16_t)(half | ((bits >> 16) & 0x8000u));
    }
}

const float *cpu_load(const Tensor *tensor, int64_t offset, int64_t n, float *tmp)
{
    assert(n <= CPU_BLOCK);
    if (tensor->dtype == DT_F32) return (const float *)tensor->data + offset;
    const uint16_t *src = (const uint16_t *)tensor->data + offset;
    if (tensor->dtype == DT_BF16)
        f32_from_bf16(src, n, (uint32_t *)tmp);
    else
        f32_from_f16(src, n, tmp);
    return tmp;
}

float *cpu_row(const Tensor *tensor, int64_t offset, float *tmp)
{
    return tensor->dtype == DT_F32 ? (float *)tensor->data + offset : tmp;
}

void cpu_store(const Tensor *tensor, int64_t offset, int64_t n, const float *row)
{
    if (tensor->dtype == DT_F32) return;
    uint16_t *dst = (uint16_t *)tensor->data + offset;
    if (tensor->dtype == DT_BF16)
        bf16_of_f32((const uint32_t *)row, n, dst);
    else
        f16_of_f32(row, n, dst);
}
