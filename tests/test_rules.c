/* Shape rules and the facts of ops: what they refuse, with which message; gradients that do not
 * exist; the counting of work. What they accept is judged by test_gradcheck and test_backends,
 * which build every case.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "autograd/rules.h"
#include "tests/op_cases.h"

static ShapeCall call_of(const OpCase *op_case)
{
    ShapeCall call = {.op = op_case->op,
                      .label = "decoder.block",
                      .attr = &op_case->attr,
                      .n_src = op_case_n_src(op_case)};
    for (int i = 0; i < call.n_src; i++)
        call.src[i] = (Tensor){.dtype = op_case->src[i].dtype, .shape = op_case->src[i].shape};
    return call;
}

static void expect_refused(ShapeCall call, const char *what)
{
    cr_expect_eq(rules_infer(&call), E_SHAPE, "%s accepted %s", op_info(call.op)->name, what);
    cr_expect(strstr(status_message(), "decoder.block: "), "%s: no label in \"%s\"",
              op_info(call.op)->name, status_message());
    cr_expect(strstr(status_message(), op_info(call.op)->name), "no op in \"%s\"",
              status_message());
}

/* ---- operands, as the table's types string tells ---- */

Test(rules, refuse_absent_sources)
{
    for (int c = 0; c < op_case_count(); c++)
        for (int i = 0; i < op_case_n_src(op_case(c)); i++) {
            OpOperand operand;
            ShapeCall call = call_of(op_case(c));
            op_src(call.op, i, &operand);
            call.src[i] = (Tensor){0};
            if (!operand.optional) expect_refused(call, "an absent source");
        }
}

Test(rules, refuse_wrong_dtypes)
{
    for (int c = 0; c < op_case_count(); c++)
        for (int i = 0; i < op_case_n_src(op_case(c)); i++) {
            ShapeCall call = call_of(op_case(c));
            OpOperand operand;
            op_src(call.op, i, &operand);
            if (call.src[i].dtype == DT_NONE || operand.kind == 'n') continue;
            call.src[i].dtype = call.src[i].dtype == DT_F32 ? DT_I32 : DT_F32;
            expect_refused(call, "a wrong dtype");
        }
}

static int row_n_src(OpId op)
{
    OpOperand operand;
    int n = 0;
    while (op_src(op, n, &operand)) n++;
    return n;
}

Test(rules, refuse_too_few_and_too_many_sources)
{
    for (int c = 0; c < op_case_count(); c++) {
        ShapeCall call = call_of(op_case(c));
        int n_src = row_n_src(call.op); /* OP_MAX_SRC where the last one repeats */
        if (call.n_src > 0) {
            call.n_src = 0;
            expect_refused(call, "no sources");
        }
        if (n_src == OP_MAX_SRC) continue;
        call.src[n_src] = (Tensor){.dtype = DT_F32, .shape = SHAPE(1)};
        call.n_src = n_src + 1;
        expect_refused(call, "a source too many");
    }
}

/* Sources of these ops have no shape that could be wrong by itself. */
static bool takes_any_shape(OpId op, int src)
{
    switch (op) {
    case OP_ACT:
    case OP_ACCUM:
    case OP_COPY:
    case OP_CAST:
    case OP_SUMSQ:
    case OP_RANK_GATHER:
    case OP_CONCAT: /* axis 0 of a single source */
    case OP_SLICE:
    case OP_PAD: return true;
    case OP_ADAMW:
    case OP_EMA: return src == 0;
    default: return false;
    }
}

Test(rules, refuse_odd_shapes)
{
    for (int c = 0; c < op_case_count(); c++)
        for (int i = 0; i < op_case_n_src(op_case(c)); i++) {
            ShapeCall call = call_of(op_case(c));
            if (call.src[i].dtype == DT_NONE || takes_any_shape(call.op, i)) continue;
            call.src[i].shape = SHAPE(2, 3, 97, 1, 101, 89);
            /* what broadcasts from, or reduces to, one element takes any shape */
            if (call.op == OP_ADD && shape_elems(call.src[1 - i].shape) == 1) continue;
            if (call.op == OP_REDUCE_SUM && shape_elems(call.attr->reduce_sum.shape) == 1) continue;
            expect_refused(call, "a shape of rank 6");
        }
}

Test(rules, give_every_destination)
{
    for (int c = 0; c < op_case_count(); c++) {
        ShapeCall call = call_of(op_case(c));
        cr_assert_eq(rules_infer(&call), OK, "%s", status_message());
        OpOperand operand;
        for (int i = 0; op_dst(call.op, i, &operand); i++) {
            DType wanted = operand.kind == 'i' ? DT_I32 : operand.kind == 't' ? DT_I64 : DT_F32;
            if (call.op == OP_CAST) wanted = call.attr->cast.dtype;
            if (operand.kind == 'n') wanted = call.src[0].dtype;
            if (operand.mutated) wanted = DT_NONE;
            cr_expect_eq(call.dst[i].dtype, wanted, "%s, destination %d", op_info(call.op)->name,
                         i);
        }
    }
}

Test(rules, take_the_dtype_of_low_operands)
{
    ShapeCall call = {.op = OP_ATTENTION,
                      .label = "x",
                      .n_src = 3,
                      .attr = &(OpAttr){.attention = {.heads = 1, .scale = 1}}};
    for (int i = 0; i < 3; i++)
        call.src[i] = (Tensor){.dtype = DT_BF16, .shape = SHAPE(1, 1, 2, 4)};
    cr_assert_eq(rules_infer(&call), OK);
    cr_expect_eq(call.dst[0].dtype, DT_BF16);
    cr_expect_eq(call.dst[1].dtype, DT_F32);
    for (int i = 0; i < 3; i++) call.src[i].dtype = DT_F64;
    cr_assert_eq(rules_infer(&call), OK);
    cr_expect_eq(call.dst[1].dtype, DT_F64);
}

/* ---- messages ---- */

#define F32(...)                                                 \
    {                                                            \
        .dtype = DT_F32, .shape = {                              \
            .rank = (int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), \
            .dim = {__VA_ARGS__}                                 \
        }                                                        \
    }

static const struct {
    OpId op;
    OpAttr attr;
    int n_src;
    Tensor src[4];
    const char *message;
} wrong[] = {
    {OP_MATMUL,
     {.matmul = {false, true}},
     2,
     {F32(5, 7), F32(3, 8)},
     "x: matmul: inner dim of b, against a: got 8, wanted 7"},
    {OP_MATMUL,
     {.matmul = {0}},
     2,
     {F32(2, 5, 7), F32(3, 7, 4)},
     "x: matmul: batch dim 0 is 2 in a and 3 in b"},
    {OP_MATMUL,
     {.matmul = {0}},
     3,
     {F32(5, 7), F32(7, 3), F32(4)},
     "x: matmul: bias (source 2) has shape (4), wanted (3)"},
    {OP_ADD,
     {.add = {0}},
     2,
     {F32(2, 3), F32(2)},
     "x: add: shape (2,3) does not broadcast with (2)"},
    {OP_CONV2D,
     {.conv2d = {1, 0, 2}},
     2,
     {F32(1, 4, 4, 5), F32(4, 1, 1, 2)},
     "x: conv2d: 5 channels to 4 do not divide into 2 groups"},
    {OP_CONV2D,
     {.conv2d = {1, 0, 1}},
     2,
     {F32(1, 2, 4, 5), F32(4, 3, 3, 5)},
     "x: conv2d: kernel of 3 px on 2 px with pad 0"},
    {OP_CONV2D,
     {.conv2d = {0, 0, 1}},
     2,
     {F32(1, 4, 4, 5), F32(4, 3, 3, 5)},
     "x: conv2d: stride: got 0, wanted at least 1"},
    {OP_SLICE,
     {.slice = {1, 3, 3}},
     1,
     {F32(2, 5)},
     "x: slice: elements 3 to 5 of axis 1, which has 5"},
    {OP_SLICE,
     {.slice = {2, 0, 1}},
     1,
     {F32(2, 5)},
     "x: slice: axis 2 is outside source 0 of shape (2,5)"},
    {OP_RESHAPE,
     {.reshape = {{.rank = 1, .dim = {7}}}},
     1,
     {F32(2, 3)},
     "x: reshape: shape (2,3) has another number of elements than (7)"},
    {OP_ATTENTION,
     {.attention = {3, 1, 0}},
     3,
     {F32(1, 1, 2, 8), F32(1, 1, 2, 8), F32(1, 1, 2, 8)},
     "x: attention: 8 channels do not divide into 3 heads"},
    {OP_ATTENTION,
     {.attention = {2, 1, 0}},
     3,
     {F32(1, 3, 2, 8), F32(1, 2, 2, 8), F32(1, 2, 2, 8)},
     "x: attention: q has 3 masks and k 2, wanted equal numbers or 1"},
    {OP_ATTENTION,
     {.attention = {2, 1, 3}},
     3,
     {F32(1, 1, 2, 8), F32(1, 1, 2, 8), F32(1, 1, 2, 8)},
     "x: attention: 3 free keys of 2"},
    {OP_WINDOW_UNPARTITION,
     {.window_unpartition = {4, 8, 4}},
     1,
     {F32(3, 4, 4, 2)},
     "x: window_unpartition: 3 windows do not divide into images of 2"},
    {OP_LAYERNORM,
     {.layernorm = {0, ACT_NONE}},
     3,
     {F32(2, 3), F32(3), F32(3)},
     "x: layernorm: eps is 0, wanted more than 0"},
    {OP_DEPTH_TO_SPACE,
     {.depth_to_space = {2}},
     1,
     {F32(1, 2, 2, 6)},
     "x: depth_to_space: 6 channels do not divide into blocks of 4"},
    {OP_BN_UPDATE,
     {.bn_update = {0.1, 1}},
     3,
     {F32(1, 3), F32(1, 3), F32(1)},
     "x: bn_update: statistics of 1 values, wanted 2 or more"},
};

Test(rules, say_what_disagrees)
{
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ShapeCall call = {
            .op = wrong[i].op, .label = "x", .attr = &wrong[i].attr, .n_src = wrong[i].n_src};
        memcpy(call.src, wrong[i].src, sizeof wrong[i].src);
        cr_expect_eq(rules_infer(&call), E_SHAPE, "accepted what should give \"%s\"",
                     wrong[i].message);
        cr_expect_str_eq(status_message(), wrong[i].message);
    }
}

/* ---- gradients that do not exist ---- */

Test(rules, refuse_gradients_by_name)
{
    Graph *graph = graph_create();
    graph_label_push(graph, "norm");
    GradCall call = {.graph = graph};
    cr_expect_eq(rules_gradient(OP_CAST, &call), E_UNSUPPORTED);
    cr_expect_str_eq(status_message(),
                     "norm: cast has no gradient rule: nothing behind it can be trained");
    call.need[0] = true;
    cr_expect_eq(rules_gradient(OP_POINT_EMBED, &call), E_UNSUPPORTED);
    cr_expect_str_eq(status_message(),
                     "norm: there is no gradient of prompt coordinates (source 0)");
    graph_destroy(graph);
}

/* ---- work ---- */

static int64_t work_of(OpId op, OpAttr attr, int n_src, const Tensor *src)
{
    ShapeCall call = {.op = op, .label = "x", .attr = &attr, .n_src = n_src};
    memcpy(call.src, src, (size_t)n_src * sizeof *src);
    cr_assert_eq(rules_infer(&call), OK, "%s", status_message());
    return op_work(op, &attr, call.src, n_src, call.dst);
}

Test(rules, count_work)
{
    const Tensor linear[] = {F32(2, 5, 7), F32(3, 7)};
    cr_expect_eq(work_of(OP_MATMUL, ATTR(matmul, .trans_b = true), 2, linear), 2 * 5 * 7 * 3);
    const Tensor map[] = {F32(1, 8, 8, 6), F32(4, 3, 3, 3)};
    cr_expect_eq(work_of(OP_CONV2D, ATTR(conv2d, 2, 1, 2), 2, map), 4 * 4 * 4 * 3 * 3 * 3);
    const Tensor data[] = {F32(1, 4, 4, 4), F32(4, 3, 3, 3)};
    ConvGradAttr attr = {{2, 1, 2}, SHAPE(1, 8, 8, 6)};
    cr_expect_eq(work_of(OP_CONV2D_GRAD_DATA, (OpAttr){.conv2d_grad_data = attr}, 2, data),
                 4 * 4 * 4 * 3 * 3 * 3);
    const Tensor weight[] = {F32(1, 8, 8, 6), F32(1, 4, 4, 4)};
    attr.shape = SHAPE(4, 3, 3, 3);
    cr_expect_eq(work_of(OP_CONV2D_GRAD_WEIGHT, (OpAttr){.conv2d_grad_weight = attr}, 2, weight),
                 4 * 4 * 4 * 27);
    const Tensor qkv[] = {F32(2, 3, 5, 8), F32(2, 1, 7, 8), F32(2, 1, 7, 8)};
    cr_expect_eq(work_of(OP_ATTENTION, ATTR(attention, 2, 1, 0), 3, qkv), 2 * (2 * 3 * 5 * 7 * 8));
    const Tensor values[] = {F32(10, 4)};
    cr_expect_eq(work_of(OP_REDUCE_SUM, ATTR(reduce_sum, SHAPE(4)), 1, values), 40);
    cr_expect(op_counts_as_macs(OP_MATMUL) && !op_counts_as_macs(OP_ADD));
}
