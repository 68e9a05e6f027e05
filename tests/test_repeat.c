/* What the op table calls REPEAT is made again in the backward pass, not kept: a chain of matrix
 * products, each with a batch norm and its activation, gives the same bits with less memory.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/exec.h"
#include "autograd/passes.h"
#include "base/memory.h"
#include "base/rng.h"

enum { N_LAYERS = 6, SIDE = 8, WIDTH = 16, WEIGHTS = WIDTH * WIDTH };

typedef struct Chain {
    Backend *backend;
    Graph *graph;
    Exec *exec;
    ValueId image, weight[N_LAYERS], gradient[N_LAYERS], normed[N_LAYERS];
} Chain;

static ValueId build_layers(Chain *chain)
{
    const char *names[N_LAYERS] = {"w0", "w1", "w2", "w3", "w4", "w5"};
    Graph *g = chain->graph;
    ValueId x = chain->image, scale = graph_filled(g, DT_F64, SHAPE(WIDTH), 1.5),
            bias = graph_filled(g, DT_F64, SHAPE(WIDTH), 0.25);
    for (int i = 0; i < N_LAYERS; i++) {
        chain->weight[i] = graph_input(g, names[i], DT_F64, SHAPE(WIDTH, WIDTH));
        x = graph_op(g, OP_MATMUL, NO_ATTR, SRC(x, chain->weight[i]));
        OpAttr norm = ATTR(batchnorm, .eps = 1e-5, .act = ACT_GELU_TANH);
        x = chain->normed[i] = graph_op(g, OP_BATCHNORM, norm, SRC(x, scale, bias));
    }
    return x;
}

static void feed(const Chain *chain, ValueId input, uint64_t sample)
{
    RngKey key = {.seed = 11, .purpose = RNG_TEST, .sample = sample};
    int64_t n = shape_elems(graph_value(chain->graph, input)->shape);
    double *values = mem_alloc((size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++) values[i] = rng_normal(key, (uint64_t)i);
    cr_assert_eq(exec_write(chain->exec, input, values), OK);
    free(values);
}

static Chain make_chain(bool repeat)
{
    Chain chain = {.graph = graph_create()};
    Graph *g = chain.graph;
    cr_assert_eq(backend_open("ref", 1, &chain.backend), OK, "%s", status_message());
    chain.image = graph_input(g, "image", DT_F64, SHAPE(2, SIDE, SIDE, WIDTH));
    ValueId target = graph_filled(g, DT_F64, SHAPE(2, SIDE, SIDE, WIDTH), 0.5);
    ValueId loss = graph_op(g, OP_MSE, ATTR(mse, .scale = 1), SRC(build_layers(&chain), target));
    pass_differentiate(g, loss, VALUE_NONE, N_LAYERS, chain.weight, chain.gradient);
    for (int i = 0; i < N_LAYERS; i++) graph_output(g, chain.gradient[i], "gradient");
    if (repeat) pass_recompute(g, 0, NULL);
    pass_prune(g);
    cr_assert_eq(exec_create(g, chain.backend, &chain.exec), OK, "%s", status_message());
    feed(&chain, chain.image, 0);
    for (int i = 0; i < N_LAYERS; i++) feed(&chain, chain.weight[i], 1 + (uint64_t)i);
    cr_assert_eq(exec_run(chain.exec), OK, "%s", status_message());
    return chain;
}

static void destroy(Chain *chain)
{
    exec_destroy(chain->exec);
    graph_destroy(chain->graph);
    backend_close(chain->backend);
}

static bool read_backwards(const Graph *graph, ValueId value)
{
    for (NodeId n = 0; n < graph->n_nodes; n++)
        for (int s = 0; s < graph->nodes[n].n_src; s++)
            if (graph->nodes[n].backward && !graph->nodes[n].dead &&
                graph->nodes[n].src[s] == value)
                return true;
    return false;
}

Test(repeat, gives_the_same_bits_and_keeps_nothing)
{
    Chain kept = make_chain(false), repeated = make_chain(true);
    for (int i = 0; i < N_LAYERS; i++) {
        double a[WEIGHTS], b[WEIGHTS];
        cr_assert_eq(exec_read(kept.exec, kept.gradient[i], a), OK);
        cr_assert_eq(exec_read(repeated.exec, repeated.gradient[i], b), OK);
        cr_expect_arr_eq(a, b, sizeof a, "gradient %d", i);
        cr_expect_eq(read_backwards(kept.graph, kept.normed[i]), true, "layer %d", i);
        cr_expect_eq(read_backwards(repeated.graph, repeated.normed[i]), false, "layer %d", i);
    }
    /* Of two maps a layer, one is left. */
    size_t maps = (N_LAYERS - 2) * 2 * SIDE * SIDE * WIDTH * sizeof(double);
    cr_expect_leq(exec_plan(repeated.exec)->arena_bytes + maps, exec_plan(kept.exec)->arena_bytes);
    destroy(&kept);
    destroy(&repeated);
}
