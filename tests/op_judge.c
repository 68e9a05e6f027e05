/* Judging kernels against the reference in f64. See op_judge.h. */
#include "tests/op_judge.h"

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tests/op_bench.h"

enum { GUARD_BYTES = 64, GUARD_PATTERN = 0xA5, GARBAGE = 0xFF };

/* ---- tensors between guard bands ---- */

typedef struct Guarded {
    Tensor tensor;
    unsigned char *block; /* guard, data, guard */
    size_t bytes;
} Guarded;

static Guarded guarded_create(DType dtype, Shape shape, size_t bytes)
{
    Guarded g = {.tensor = {.dtype = dtype, .shape = shape}, .bytes = bytes};
    size_t all = (bytes + 2 * GUARD_BYTES + 63) / 64 * 64;
    g.block = aligned_alloc(64, all);
    memset(g.block, GUARD_PATTERN, all);
    memset(g.block + GUARD_BYTES, GARBAGE, bytes);
    g.tensor.data = g.block + GUARD_BYTES;
    return g;
}

static Guarded guarded_tensor(DType dtype, Shape shape)
{
    if (dtype == DT_NONE) return (Guarded){0};
    Tensor tensor = {.dtype = dtype, .shape = shape};
    return guarded_create(dtype, shape, tensor_bytes(&tensor));
}

static bool guarded_intact(const Guarded *g)
{
    if (!g->block) return true;
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (g->block[i] != GUARD_PATTERN || g->block[GUARD_BYTES + g->bytes + i] != GUARD_PATTERN)
            return false;
    return true;
}

static bool same_bytes(const Guarded *a, const Guarded *b)
{
    return !a->block || memcmp(a->tensor.data, b->tensor.data, a->bytes) == 0;
}

static void copy_data(Guarded *to, const Guarded *from)
{
    if (from->block) memcpy(to->tensor.data, from->tensor.data, from->bytes);
}

/* ---- the operands of one call ---- */

typedef struct Operands {
    Guarded src[OP_MAX_SRC], dst[OP_MAX_DST];
} Operands;

typedef struct Trial {
    const OpBench *bench;
    const Node *node;
    const JudgeMode *mode;
    Operands ref;      /* f64, sources rounded */
    Operands original; /* in the dtypes under test: sources, and old values of '!' destinations */
    Operands first, again;
} Trial;

static DType dtype_under_test(const JudgeMode *mode, char kind, DType dtype)
{
    if (!dtype_is_float(dtype)) return dtype;
    return kind == 'f' ? DT_F32 : mode->low;
}

static DType source_dtype(const Trial *trial, int i)
{
    OpOperand operand = {0};
    if (trial->node->src[i] == VALUE_NONE) return DT_NONE;
    op_src(trial->node->op, i, &operand);
    return dtype_under_test(trial->mode, operand.kind,
                            trial->bench->values[trial->node->src[i]].dtype);
}

/* An 'a' destination follows the first source, which may be an 'f' or 'l'. */
static DType destination_dtype(const Trial *trial, int i)
{
    OpOperand operand = {0};
    op_dst(trial->node->op, i, &operand);
    if (trial->node->op == OP_CAST) return trial->node->attr.cast.dtype;
    if (operand.kind == 'a' || operand.kind == 'n') return source_dtype(trial, 0);
    return dtype_under_test(trial->mode, operand.kind,
                            trial->bench->values[trial->node->dst[i]].dtype);
}

static bool is_mutated(const Node *node, int i)
{
    OpOperand operand = {0};
    op_dst(node->op, i, &operand);
    return operand.mutated;
}

/* Content of `wide` rounded to the dtype of `narrow`, and back, so that both hold the same numbers.
 */
static void round_into(Guarded *narrow, Guarded *wide)
{
    int64_t n = shape_elems(wide->tensor.shape);
    if (!dtype_is_float(wide->tensor.dtype)) {
        copy_data(narrow, wide);
        return;
    }
    tensor_convert(narrow->tensor.data, narrow->tensor.dtype, wide->tensor.data, wide->tensor.dtype,
                   n);
    tensor_convert(wide->tensor.data, wide->tensor.dtype, narrow->tensor.data, narrow->tensor.dtype,
                   n);
}

static void prepare_source(Trial *trial, int i)
{
    if (trial->node->src[i] == VALUE_NONE) return;
    const Tensor *value = &trial->bench->values[trial->node->src[i]];
    trial->ref.src[i] = guarded_tensor(value->dtype, value->shape);
    trial->original.src[i] = guarded_tensor(source_dtype(trial, i), value->shape);
    memcpy(trial->ref.src[i].tensor.data, value->data, tensor_bytes(value));
    round_into(&trial->original.src[i], &trial->ref.src[i]);
}

static void prepare_destination(Trial *trial, int i)
{
    const Tensor *value = &trial->bench->values[trial->node->dst[i]];
    trial->ref.dst[i] = guarded_tensor(value->dtype, value->shape);
    trial->original.dst[i] = guarded_tensor(destination_dtype(trial, i), value->shape);
    if (!is_mutated(trial->node, i)) return;
    op_case_fill_dst(trial->bench->op_case, i, trial->ref.dst[i].tensor.data);
    round_into(&trial->original.dst[i], &trial->ref.dst[i]);
}

static void copy_operands(Operands *to, const Operands *from, const Node *node)
{
    for (int i = 0; i < node->n_src; i++) {
        to->src[i] = guarded_tensor(from->src[i].tensor.dtype, from->src[i].tensor.shape);
        copy_data(&to->src[i], &from->src[i]);
    }
    for (int i = 0; i < node->n_dst; i++) {
        to->dst[i] = guarded_tensor(from->dst[i].tensor.dtype, from->dst[i].tensor.shape);
        copy_data(&to->dst[i], &from->dst[i]);
    }
}

static void free_operands(Operands *operands)
{
    for (int i = 0; i < OP_MAX_SRC; i++) free(operands->src[i].block);
    for (int i = 0; i < OP_MAX_DST; i++) free(operands->dst[i].block);
}

static Trial trial_create(const OpBench *bench, const Node *node, const JudgeMode *mode)
{
    Trial trial = {.bench = bench, .node = node, .mode = mode};
    for (int i = 0; i < node->n_src; i++) prepare_source(&trial, i);
    for (int i = 0; i < node->n_dst; i++) prepare_destination(&trial, i);
    copy_operands(&trial.first, &trial.original, node);
    copy_operands(&trial.again, &trial.original, node);
    return trial;
}

static void trial_destroy(Trial *trial)
{
    free_operands(&trial->ref);
    free_operands(&trial->original);
    free_operands(&trial->first);
    free_operands(&trial->again);
}

/* "conv2d of conv2d "3x3", cpu, 2 threads, float32" */
static const char *trial_name(const Trial *trial, char *buffer, size_t bytes)
{
    snprintf(buffer, bytes, "%s of %s \"%s\", %s, %d threads, %s", op_info(trial->node->op)->name,
             op_info(trial->bench->op_case->op)->name, trial->bench->op_case->name,
             trial->mode->backend, trial->mode->n_threads, dtype_name(trial->mode->low));
    return buffer;
}

/* ---- running ---- */

/* Memory of the backend's own, for backends that cannot touch the host's; cut anew for each call.
 */
typedef struct Arena {
    Backend *backend;
    char *memory; /* NULL: the host's memory serves */
    size_t used;
} Arena;

enum { ARENA_BYTES = 64 << 20, ARENA_ALIGN = 256 };

static Arena arena_open(Backend *backend)
{
    void *memory = NULL;
    if (backend->record_begin)
        cr_assert_eq(backend->alloc(backend, ARENA_BYTES, &memory), OK, "%s", status_message());
    return (Arena){.backend = backend, .memory = memory};
}

static void arena_close(Arena *arena)
{
    if (arena->memory) arena->backend->free(arena->backend, arena->memory, ARENA_BYTES);
}

/* Where the kernel finds an operand, guard bands around it. The data begin at a multiple of
 * ARENA_ALIGN, as the planner's do. */
static Status place(Arena *arena, const Guarded *g, void **out)
{
    *out = g->tensor.data;
    if (!arena->memory || !g->block) return OK;
    size_t at = (arena->used + GUARD_BYTES + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    arena->used = at + g->bytes + GUARD_BYTES;
    cr_assert(arena->used <= ARENA_BYTES);
    *out = arena->memory + at;
    return arena->backend->upload(arena->backend, (char *)*out - GUARD_BYTES, g->block,
                                  g->bytes + 2 * GUARD_BYTES);
}

static Status fetch(Arena *arena, const Guarded *g, const void *placed)
{
    if (!arena->memory || !g->block) return OK;
    return arena->backend->download(arena->backend, g->block, (const char *)placed - GUARD_BYTES,
                                    g->bytes + 2 * GUARD_BYTES);
}

/* The guard bands alone: what lies in a scratch is nobody's business, nor need it all be written.
 */
static Status fetch_guards(Arena *arena, const Guarded *g, const void *placed)
{
    if (!arena->memory || !g->block) return OK;
    const char *data = placed;
    TRY(arena->backend->download(arena->backend, g->block, data - GUARD_BYTES, GUARD_BYTES));
    return arena->backend->download(arena->backend, g->block + GUARD_BYTES + g->bytes,
                                    data + g->bytes, GUARD_BYTES);
}

static KernelCall call_of(const Backend *backend, const Node *node, const Operands *operands)
{
    KernelCall call = {.op = node->op,
                       .label = node->label,
                       .attr = &node->attr,
                       .n_src = node->n_src,
                       .n_dst = node->n_dst,
                       .n_threads = backend->n_threads};
    for (int i = 0; i < node->n_src; i++) call.src[i] = operands->src[i].tensor;
    for (int i = 0; i < node->n_dst; i++) call.dst[i] = operands->dst[i].tensor;
    for (int i = 0; i < node->n_src; i++) call.src[i].data = NULL; /* as the engine binds */
    for (int i = 0; i < node->n_dst; i++) call.dst[i].data = NULL;
    return call;
}

/* Runs a bound call on its operands and waits for it. */
static Status run_bound(Arena *arena, KernelCall *call, Operands *operands, Guarded *scratch,
                        bool in_place)
{
    Backend *backend = arena->backend;
    arena->used = 0;
    for (int i = 0; i < call->n_src; i++) TRY(place(arena, &operands->src[i], &call->src[i].data));
    for (int i = 0; i < call->n_dst; i++) TRY(place(arena, &operands->dst[i], &call->dst[i].data));
    TRY(place(arena, scratch, &call->scratch));
    if (in_place) call->dst[0].data = call->src[0].data;
    call->run(call);
    TRY(backend->wait(backend));
    for (int i = 0; i < call->n_src; i++) TRY(fetch(arena, &operands->src[i], call->src[i].data));
    for (int i = in_place; i < call->n_dst; i++)
        TRY(fetch(arena, &operands->dst[i], call->dst[i].data));
    return fetch_guards(arena, scratch, call->scratch);
}

static Status run_call(Arena *arena, const Node *node, Operands *operands, bool in_place)
{
    KernelCall call = call_of(arena->backend, node, operands);
    TRY(arena->backend->bind(arena->backend, &call));
    Guarded scratch = guarded_create(DT_U8, SHAPE((int64_t)call.scratch_bytes), call.scratch_bytes);
    Status status = run_bound(arena, &call, operands, &scratch, in_place);
    cr_expect(guarded_intact(&scratch), "%s: wrote outside its scratch", op_info(node->op)->name);
    if (call.release) call.release(call.state);
    free(scratch.block);
    return status;
}

static void check_untouched(const Trial *trial, const Operands *used)
{
    char name[200];
    trial_name(trial, name, sizeof name);
    for (int i = 0; i < trial->node->n_src; i++) {
        cr_expect(same_bytes(&used->src[i], &trial->original.src[i]), "%s: changed source %d", name,
                  i);
        cr_expect(guarded_intact(&used->src[i]), "%s: wrote beside source %d", name, i);
    }
    for (int i = 0; i < trial->node->n_dst; i++)
        cr_expect(guarded_intact(&used->dst[i]), "%s: wrote beside destination %d", name, i);
}

static void check_repeatable(const Trial *trial)
{
    char name[200];
    for (int i = 0; i < trial->node->n_dst; i++)
        cr_expect(same_bytes(&trial->first.dst[i], &trial->again.dst[i]),
                  "%s: another run gives other bits in destination %d",
                  trial_name(trial, name, sizeof name), i);
}

static bool may_run_in_place(const Trial *trial)
{
    const Tensor *src = &trial->original.src[0].tensor, *dst = &trial->original.dst[0].tensor;
    return op_info(trial->node->op)->flags & OP_FLAG_INPLACE && src->dtype == dst->dtype &&
           shape_equal(src->shape, dst->shape);
}

/* Uses up trial->again. */
static void check_in_place(Trial *trial, Arena *arena)
{
    char name[200];
    cr_expect_eq(run_call(arena, trial->node, &trial->again, true), OK, "%s", status_message());
    cr_expect(same_bytes(&trial->first.dst[0], &trial->again.src[0]), "%s: other bits in place",
              trial_name(trial, name, sizeof name));
    cr_expect(guarded_intact(&trial->again.src[0]), "%s: wrote beside its source in place", name);
}

/* ---- numbers ---- */

static double storage_rounding(DType dtype)
{
    return dtype == DT_BF16 ? 0x1p-8 : dtype == DT_F16 ? 0x1p-11 : 0x1p-24;
}

static int64_t reduction_length(const Trial *trial, int dst)
{
    const Node *node = trial->node;
    Tensor src[OP_MAX_SRC] = {0}, all[OP_MAX_DST] = {0};
    for (int i = 0; i < node->n_src; i++) src[i] = trial->ref.src[i].tensor;
    for (int i = 0; i < node->n_dst; i++) all[i] = trial->ref.dst[i].tensor;
    int64_t n = shape_elems(all[dst].shape);
    int64_t length = n > 0 ? op_work(node->op, &node->attr, src, node->n_src, all) / n : 1;
    return length > 1 ? length : 1;
}

static double as_double(const Tensor *tensor, int64_t i)
{
    if (tensor->dtype == DT_I32) return ((const int32_t *)tensor->data)[i];
    if (tensor->dtype == DT_I64) return (double)((const int64_t *)tensor->data)[i];
    double value;
    const char *element = (const char *)tensor->data + (size_t)i * dtype_size(tensor->dtype);
    tensor_convert(&value, DT_F64, element, tensor->dtype, 1);
    return value;
}

static double rounded(double value, DType dtype)
{
    if (!dtype_is_float(dtype)) return value;
    uint64_t bits;
    tensor_convert(&bits, dtype, &value, DT_F64, 1);
    tensor_convert(&value, DT_F64, &bits, dtype, 1);
    return value;
}

static bool agrees(double got, double wanted, double tolerance)
{
    if (isnan(wanted)) return isnan(got);
    if (isinf(wanted)) return got == wanted;
    return fabs(got - wanted) <= tolerance;
}

static void check_numbers(const Trial *trial, int dst)
{
    const Tensor *got = &trial->first.dst[dst].tensor, *wanted = &trial->ref.dst[dst].tensor;
    int64_t n = shape_elems(wanted->shape), n_wrong = 0, first_wrong = 0;
    double ulps = op_info(trial->node->op)->ulps, scale = trial->bench->op_case->term_magnitude;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(as_double(wanted, i))) scale = fmax(scale, fabs(as_double(wanted, i)));
    double rounding = storage_rounding(got->dtype) +
                      ulps * FLT_EPSILON * sqrt((double)reduction_length(trial, dst));
    bool exact = ulps == 0 || !dtype_is_float(got->dtype);
    for (int64_t i = 0; i < n; i++) {
        double target = as_double(wanted, i);
        if (exact) target = rounded(target, got->dtype);
        if (!agrees(as_double(got, i), target, exact ? 0 : rounding * scale) && n_wrong++ == 0)
            first_wrong = i;
    }
    char name[200];
    cr_expect_eq(n_wrong, 0,
                 "%s: %lld of %lld elements of destination %d, first %lld: got %.9g, wanted %.9g, "
                 "tolerance %.2g",
                 trial_name(trial, name, sizeof name), (long long)n_wrong, (long long)n, dst,
                 (long long)first_wrong, as_double(got, first_wrong),
                 as_double(wanted, first_wrong), exact ? 0 : rounding * scale);
}

/* ---- one node in one mode ---- */

static bool has_low_operands(const Node *node)
{
    return strpbrk(op_info(node->op)->types, "lan") != NULL;
}

static void check_node(const OpBench *bench, const Node *node, const JudgeMode *mode, Arena *arena)
{
    char name[200];
    Arena host = {.backend = bench->ref};
    Trial trial = trial_create(bench, node, mode);
    trial_name(&trial, name, sizeof name);
    cr_assert_eq(run_call(&host, node, &trial.ref, false), OK, "%s: %s", name, status_message());
    Status status = run_call(arena, node, &trial.first, false);
    cr_expect_eq(status, OK, "%s: %s", name, status_message());
    if (status == OK) {
        cr_expect_eq(run_call(arena, node, &trial.again, false), OK, "%s", status_message());
        check_untouched(&trial, &trial.first);
        check_repeatable(&trial);
        for (int i = 0; i < node->n_dst; i++) check_numbers(&trial, i);
        if (may_run_in_place(&trial)) check_in_place(&trial, arena);
    }
    trial_destroy(&trial);
}

static bool case_has(const OpBench *bench, OpId op)
{
    for (NodeId n = bench->forward; n < bench->graph->n_nodes; n++)
        if (bench->graph->nodes[n].op == op) return true;
    return false;
}

/* All nodes of op `op` in the graph of one case; how many calls that were. */
static int check_case(const OpCase *op_case, OpId op, const JudgeMode *modes, int n_modes,
                      Arena *arenas)
{
    OpBench *bench;
    int n_calls = 0;
    cr_assert_eq(bench_open(op_case, NULL, 0, &bench), OK, "%s", status_message());
    if (case_has(bench, op)) {
        cr_assert_eq(bench_run(bench), OK, "%s", status_message());
        for (NodeId n = bench->forward; n < bench->graph->n_nodes; n++) {
            const Node *node = &bench->graph->nodes[n];
            for (int m = 0; m < n_modes && node->op == op; m++) {
                if (modes[m].low != DT_F32 && !has_low_operands(node)) continue;
                check_node(bench, node, &modes[m], &arenas[m]);
                n_calls++;
            }
        }
    }
    bench_close(bench);
    return n_calls;
}

void judge_op(OpId op, const JudgeMode *modes, int n_modes)
{
    if (op_info(op)->flags & OP_FLAG_VIEW) return; /* no kernel runs */
    Arena arenas[JUDGE_MAX_MODES];
    cr_assert_leq(n_modes, JUDGE_MAX_MODES);
    for (int m = 0; m < n_modes; m++) {
        Backend *backend;
        cr_assert_eq(backend_open(modes[m].backend, modes[m].n_threads, &backend), OK, "%s",
                     status_message());
        arenas[m] = arena_open(backend);
    }
    int n_calls = 0;
    for (int i = 0; i < op_case_count(); i++)
        n_calls += check_case(op_case(i), op, modes, n_modes, arenas);
    cr_log_info("%s: %d calls", op_info(op)->name, n_calls);
    cr_expect_gt(n_calls, 0, "%s has no case", op_info(op)->name);
    for (int m = 0; m < n_modes; m++) {
        arena_close(&arenas[m]);
        backend_close(arenas[m].backend);
    }
}
