/* Graphs with regions: differentiation through loops, hoisting, recompute, pruning, in-place
 * sharing.
 *
 * A toy model stands for the real one: an "encoder" matrix product per micro-batch, then a
 * "decoder" matrix product per chunk that shares the encoder's result, squared error against a
 * target.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/exec.h"
#include "autograd/passes.h"
#include "base/rng.h"

enum { N_PARAMS = 3, SIDE = 6, N_MASKS = 4 };

typedef struct Toy {
    Backend *backend;
    Store *store;
    Graph *graph;
    Exec *exec;
    ValueId image, target, loss, gradient[N_PARAMS];
} Toy;

typedef struct ToyConfig {
    int64_t n_micro, n_chunks; /* of 2 images and N_MASKS masks */
    bool recompute, fuse;
} ToyConfig;

static void fill_random(double *values, int64_t n, uint64_t sample)
{
    RngKey key = {.seed = 11, .purpose = RNG_TEST, .sample = sample};
    for (int64_t i = 0; i < n; i++) values[i] = rng_normal(key, (uint64_t)i);
}

static void declare(Toy *toy, const char *name, Shape shape)
{
    int index;
    cr_assert_eq(
        store_declare(toy->store, name, STORE_PARAMETER, LAYOUT_PLAIN, DT_F64, shape, &index), OK);
}

/* decoder of one chunk: masks m of (mb, 1, SIDE, SIDE) shared embedding + (mb, chunk, SIDE, SIDE)
 * prompts */
static ValueId build_chunk(Toy *toy, ValueId embedding, ValueId prompts, ValueId weight,
                           double scale)
{
    Graph *g = toy->graph;
    int mark = graph_label_push(g, "decoder");
    ValueId shared = graph_op(g, OP_ACT, ATTR(act, .kind = ACT_GELU_ERF), SRC(embedding));
    ValueId sum = graph_op(g, OP_ADD, NO_ATTR, SRC(shared, prompts));
    ValueId hidden = graph_op(g, OP_ACT, ATTR(act, .kind = ACT_GELU_TANH), SRC(sum));
    ValueId out = graph_op(g, OP_MATMUL, ATTR(matmul, .trans_b = true), SRC(hidden, weight));
    ValueId zero = graph_op(
        g, OP_EXPAND, ATTR(expand, .shape = graph_value(g, out)->shape),
        SRC(graph_op(g, OP_SLICE, ATTR(slice, .axis = 0, .start = 0, .length = 1), SRC(weight))));
    graph_label_pop(g, mark);
    return graph_op(g, OP_MSE, ATTR(mse, .scale = scale), SRC(out, zero));
}

static void build(Toy *toy, const ToyConfig *config)
{
    toy->graph = graph_create();
    Graph *g = toy->graph;
    int64_t micro_batch = 2 / config->n_micro, chunk = N_MASKS / config->n_chunks;
    toy->image = graph_input(g, "image", DT_F64,
                             SHAPE(config->n_micro, micro_batch, 1, SIDE, SIDE));
    ValueId prompts = graph_input(
        g, "prompts", DT_F64,
        SHAPE(config->n_micro, config->n_chunks, micro_batch, chunk, SIDE, SIDE));
    ValueId params[N_PARAMS];
    for (int i = 0; i < N_PARAMS; i++) params[i] = graph_store_value(g, toy->store, i);
    RegionId micro = graph_region_open(g, REGION_STEP, config->n_micro, "micro");
    int mark = graph_label_push(g, "encoder");
    ValueId image = graph_slice(g, micro, toy->image);
    ValueId embedding = graph_op(g, OP_MATMUL, NO_ATTR, SRC(image, params[0], params[1]));
    embedding = graph_op(g, OP_ACT, ATTR(act, .kind = ACT_GELU_TANH), SRC(embedding));
    graph_label_pop(g, mark);
    RegionId loop = graph_region_open(g, micro, config->n_chunks, "chunk");
    ValueId part = graph_slice(g, loop, graph_slice(g, micro, prompts));
    double scale = 1.0 / (double)(config->n_micro * config->n_chunks);
    ValueId loss = build_chunk(toy, embedding, part, params[2], scale);
    loss = graph_accumulate(g, loss);
    graph_region_close(g, loop);
    toy->loss = graph_accumulate(g, loss);
    graph_region_close(g, micro);
    graph_output(g, toy->loss, "loss");
    pass_differentiate(g, toy->loss, VALUE_NONE, N_PARAMS, params, toy->gradient);
    cr_assert_eq(g->status, OK, "%s", status_message());
    for (int i = 0; i < N_PARAMS; i++) graph_output(g, toy->gradient[i], "gradient");
    const char *segments[] = {"encoder", "decoder"};
    if (config->recompute) pass_recompute(g, 2, segments);
    pass_prune(g);
    cr_assert_eq(g->status, OK, "%s", status_message());
}

/* The inputs are the same numbers whatever the chunking: (image, mask) pairs keep theirs. */
static void feed(Toy *toy, const ToyConfig *config)
{
    double image[2 * SIDE * SIDE], plain[2][N_MASKS][SIDE * SIDE],
        chunked[2 * N_MASKS * SIDE * SIDE];
    fill_random(image, 2 * SIDE * SIDE, 100);
    fill_random(&plain[0][0][0], 2 * N_MASKS * SIDE * SIDE, 101);
    int64_t micro_batch = 2 / config->n_micro, chunk = N_MASKS / config->n_chunks;
    double *to = chunked;
    for (int64_t i = 0; i < config->n_micro; i++)
        for (int64_t c = 0; c < config->n_chunks; c++)
            for (int64_t n = 0; n < micro_batch; n++)
                for (int64_t m = 0; m < chunk; m++, to += SIDE * SIDE)
                    memcpy(to, plain[i * micro_batch + n][c * chunk + m], sizeof plain[0][0]);
    cr_assert_eq(exec_write(toy->exec, toy->image, image), OK);
    cr_assert_eq(exec_write(toy->exec, graph_find_input(toy->graph, "prompts"), chunked), OK);
}

static Toy make_toy(ToyConfig config)
{
    Toy toy = {0};
    cr_assert_eq(backend_open("ref", 1, &toy.backend), OK, "%s", status_message());
    toy.store = store_create(toy.backend);
    declare(&toy, "encoder.weight", SHAPE(SIDE, SIDE));
    declare(&toy, "encoder.bias", SHAPE(SIDE));
    declare(&toy, "decoder.weight", SHAPE(SIDE, SIDE));
    cr_assert_eq(store_allocate(toy.store), OK);
    for (int i = 0; i < N_PARAMS; i++) {
        double values[SIDE * SIDE];
        Tensor host = {.dtype = DT_F64, .shape = toy.store->entries[i].shape, .data = values};
        fill_random(values, shape_elems(host.shape), (uint64_t)i);
        cr_assert_eq(store_set(toy.store, i, &host), OK);
    }
    build(&toy, &config);
    cr_assert_eq(exec_create(toy.graph, toy.backend, &toy.exec), OK, "%s", status_message());
    feed(&toy, &config);
    return toy;
}

static void destroy(Toy *toy)
{
    exec_destroy(toy->exec);
    graph_destroy(toy->graph);
    store_destroy(toy->store);
    backend_close(toy->backend);
}

typedef struct Result {
    double loss, gradient[N_PARAMS][SIDE * SIDE];
} Result;

static Result run(Toy *toy)
{
    Result result = {0};
    cr_assert_eq(exec_run(toy->exec), OK, "%s", status_message());
    cr_assert_eq(exec_read(toy->exec, toy->loss, &result.loss), OK);
    for (int i = 0; i < N_PARAMS; i++)
        cr_assert_eq(exec_read(toy->exec, toy->gradient[i], result.gradient[i]), OK);
    return result;
}

static Result run_config(ToyConfig config)
{
    Toy toy = make_toy(config);
    Result result = run(&toy);
    destroy(&toy);
    return result;
}

static double largest_difference(const Result *a, const Result *b)
{
    double most = fabs(a->loss - b->loss);
    for (int i = 0; i < N_PARAMS; i++)
        for (int j = 0; j < SIDE * SIDE; j++)
            most = fmax(most, fabs(a->gradient[i][j] - b->gradient[i][j]));
    return most;
}

Test(graph, gradient_through_loops_equals_finite_differences)
{
    Toy toy = make_toy((ToyConfig){.n_micro = 2, .n_chunks = 2});
    Result exact = run(&toy);
    const double h = 1e-6;
    for (int p = 0; p < N_PARAMS; p++)
        for (int64_t i = 0; i < shape_elems(toy.store->entries[p].shape); i++) {
            double *weight = (double *)toy.store->entries[p].data + i, kept = *weight;
            *weight = kept + h;
            double above = run(&toy).loss;
            *weight = kept - h;
            double below = run(&toy).loss;
            *weight = kept;
            double numeric = (above - below) / (2 * h);
            cr_assert_float_eq(exact.gradient[p][i], numeric, 1e-8 + 1e-7 * fabs(numeric),
                               "%s[%d]: %g and %g", toy.store->entries[p].name, (int)i,
                               exact.gradient[p][i], numeric);
        }
    destroy(&toy);
}

Test(graph, chunks_and_micro_batches_change_only_rounding)
{
    Result whole = run_config((ToyConfig){.n_micro = 1, .n_chunks = 1});
    ToyConfig others[] = {{.n_micro = 1, .n_chunks = 4},
                          {.n_micro = 2, .n_chunks = 1},
                          {.n_micro = 2, .n_chunks = 2}};
    for (int i = 0; i < 3; i++) {
        Result other = run_config(others[i]);
        cr_assert_lt(largest_difference(&whole, &other), 1e-12);
    }
}

Test(graph, a_step_can_be_run_again_with_equal_bits)
{
    Toy toy = make_toy((ToyConfig){.n_micro = 2, .n_chunks = 2});
    Result first = run(&toy), second = run(&toy);
    cr_assert_arr_eq(&first, &second, sizeof first);
    destroy(&toy);
}

Test(graph, recompute_is_bit_equal_and_really_repeats)
{
    Toy plain = make_toy((ToyConfig){.n_micro = 2, .n_chunks = 2});
    Toy again = make_toy((ToyConfig){.n_micro = 2, .n_chunks = 2, .recompute = true});
    Result a = run(&plain), b = run(&again);
    cr_assert_arr_eq(&a, &b, sizeof a);
    cr_assert_gt(exec_plan(again.exec)->n_instrs, exec_plan(plain.exec)->n_instrs);
    destroy(&plain);
    destroy(&again);
}

static int count_live(const Graph *graph, OpId op, RegionId region)
{
    int n = 0;
    for (NodeId i = 0; i < graph->n_nodes; i++)
        n += graph->nodes[i].op == op && !graph->nodes[i].dead && graph->nodes[i].region == region;
    return n;
}

Test(graph, what_does_not_depend_on_the_chunk_is_outside_of_it)
{
    Toy toy = make_toy((ToyConfig){.n_micro = 1, .n_chunks = 4});
    RegionId micro = 1, chunk = 2;
    cr_assert_eq(count_live(toy.graph, OP_ACT, micro),
                 2); /* the encoder's and the decoder's shared one */
    cr_assert_eq(count_live(toy.graph, OP_ACT, chunk), 1);
    destroy(&toy);
}

Test(graph, prune_removes_what_nobody_reads)
{
    Toy toy = make_toy((ToyConfig){.n_micro = 1, .n_chunks = 1});
    ValueId unused = graph_op(toy.graph, OP_ACT, ATTR(act, .kind = ACT_RELU), SRC(toy.image));
    pass_prune(toy.graph);
    cr_assert(toy.graph->nodes[graph_value(toy.graph, unused)->producer].dead);
    destroy(&toy);
}

Test(graph, a_shape_that_does_not_fit_is_one_clear_line)
{
    Graph *graph = graph_create();
    int mark = graph_label_push(graph, "neck.input_ops.0");
    ValueId a = graph_input(graph, "a", DT_F32, SHAPE(2, 3)),
            b = graph_input(graph, "b", DT_F32, SHAPE(4, 5));
    cr_assert_eq(graph_op(graph, OP_MATMUL, NO_ATTR, SRC(a, b)), VALUE_NONE);
    cr_assert_eq(graph->status, E_SHAPE);
    cr_assert(strstr(status_message(), "neck.input_ops.0") && strstr(status_message(), "matmul"),
              "%s", status_message());
    graph_label_pop(graph, mark);
    graph_destroy(graph);
}

Test(graph, differentiating_an_op_without_a_rule_is_an_error)
{
    Graph *graph = graph_create();
    ValueId x = graph_input(graph, "x", DT_F32, SHAPE(1, 1, 2, 3)), gradient;
    ValueId cast = graph_op(graph, OP_CAST, ATTR(cast, .dtype = DT_F32), SRC(x));
    ValueId target = graph_input(graph, "t", DT_F32, SHAPE(1, 1, 2, 3));
    ValueId loss = graph_op(graph, OP_MSE, ATTR(mse, .scale = 1), SRC(cast, target));
    pass_differentiate(graph, loss, VALUE_NONE, 1, &x, &gradient);
    cr_assert_eq(graph->status, E_UNSUPPORTED);
    cr_assert(strstr(status_message(), "cast"), "%s", status_message());
    graph_destroy(graph);
}
