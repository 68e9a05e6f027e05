/* The prompt encoder and mask decoder against the known answers. See kat_decoder.h. */
#include "tests/kat_decoder.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tests/kat_bench.h"
#include "tests/support.h"

enum { MAX_PROMPTS = 3, MAX_TOKENS = 8 };

/* Prompts as the prompt encoder takes them: padding points and box corners included. */
typedef struct DecoderCase {
    const char *name;
    int n_prompts, n_points;
    float coords[MAX_PROMPTS][MAX_TOKENS][2]; /* px in the frame of 1024 */
    int32_t labels[MAX_PROMPTS][MAX_TOKENS];
    bool mask, tiny;
} DecoderCase;

#define BOX3_COORDS                                                  \
    {                                                                \
        {{100.5f, 200.25f}, {700.75f, 900}}, {{0, 0}, {1023, 1023}}, \
        {                                                            \
            {512, 300.5f}, { 530.25f, 310 }                          \
        }                                                            \
    }
#define BOX3_LABELS              \
    {                            \
        {2, 3}, {2, 3}, { 2, 3 } \
    }
#define PTS_COORDS                                      \
    {                                                   \
        {{500, 375}, {20.25f, 1000.5f}, {830.75f, 64}}, \
        {                                               \
            {256, 256}, {768.5f, 300.25f}, { 1, 2 }     \
        }                                               \
    }
#define PT_BOX_COORDS                                          \
    {                                                          \
        {                                                      \
            {400.5f, 610.25f}, {300, 500}, { 520.5f, 760.75f } \
        }                                                      \
    }

static const DecoderCase cases[] = {
    {"box3", 3, 2, BOX3_COORDS, BOX3_LABELS, .mask = false},
    {"pts3x2", 2, 4, PTS_COORDS, {{1, 0, 1, -1}, {1, 0, 1, -1}}, .mask = false},
    {"pt_box", 1, 3, PT_BOX_COORDS, {{1, 2, 3}}, .mask = false},
    {"pt_mask", 1, 2, {{{777.25f, 123.5f}}}, {{1, -1}}, .mask = true},
    {"box3_tiny", 3, 2, BOX3_COORDS, BOX3_LABELS, .tiny = true},
};

/* Four empty slots behind the tokens of pts3x2 must not be felt. */
static const DecoderCase with_empty_slots = {
    .name = "pts3x2",
    .n_prompts = 2,
    .n_points = 8,
    .coords = PTS_COORDS,
    .labels = {{1, 0, 1, -1, -2, -2, -2, -2}, {1, 0, 1, -1, -2, -2, -2, -2}},
};

static void scale_entry(Store *store, int index, float factor)
{
    const StoreEntry *entry = &store->entries[index];
    int64_t n = shape_elems(entry->shape);
    Tensor host = {DT_F32, entry->shape, mem_alloc((size_t)n * sizeof(float))};
    must(store_get(store, index, &host));
    for (int64_t i = 0; i < n; i++) ((float *)host.data)[i] *= factor;
    must(store_set(store, index, &host));
    free(host.data);
}

static void make_tiny(Store *store)
{
    for (int i = 0; i < store->n_entries; i++) {
        const char *name = store->entries[i].name;
        bool embedding = strncmp(name, "prompt_encoder.", 15) == 0 && strstr(name, "embed");
        bool token = strstr(name, "iou_token") || strstr(name, "mask_tokens");
        bool out = strncmp(name, "mask_decoder.transformer.", 25) == 0 &&
                   strstr(name, ".out_proj.");
        if (embedding || token || out) scale_entry(store, i, 0x1p-7f);
    }
}

static void write_prompts(KatBench *b, const DecoderCase *c)
{
    Graph *graph = b->context.graph;
    float coords[MAX_PROMPTS * MAX_TOKENS * 2];
    int32_t labels[MAX_PROMPTS * MAX_TOKENS];
    for (int m = 0; m < c->n_prompts; m++) {
        memcpy(coords + m * c->n_points * 2, c->coords[m],
               (size_t)c->n_points * sizeof c->coords[m][0]);
        memcpy(labels + m * c->n_points, c->labels[m],
               (size_t)c->n_points * sizeof c->labels[m][0]);
    }
    must(exec_write(b->exec, graph_find_input(graph, "coords"), coords));
    must(exec_write(b->exec, graph_find_input(graph, "labels"), labels));
    if (!c->mask) return;
    float *mask = mem_alloc(256 * 256 * sizeof *mask);
    kat_fill("kat.mask_input", 4, mask, 256 * 256);
    must(exec_write(b->exec, graph_find_input(graph, "mask"), mask));
    free(mask);
}

static void write_embedding(KatBench *b, float factor)
{
    Shape shape = SHAPE(1, 64, 64, 256);
    float *embedding = mem_alloc((size_t)shape_elems(shape) * sizeof *embedding);
    kat_fill_map("kat.image_embedding", factor, embedding, shape);
    must(exec_write(b->exec, graph_find_input(b->context.graph, "embedding"), embedding));
    free(embedding);
}

static DecoderOutputs run_decoder(KatBench *b, const DecoderCase *c)
{
    Graph *graph = b->context.graph;
    ValueId embedding = graph_input(graph, "embedding", DT_F32, SHAPE(1, 64, 64, 256));
    PromptInputs prompts = {
        .coords = graph_input(graph, "coords", DT_F32, SHAPE(1, c->n_prompts, c->n_points, 2)),
        .labels = graph_input(graph, "labels", DT_I32, SHAPE(1, c->n_prompts, c->n_points))};
    if (c->mask)
        prompts.mask_input = graph_input(graph, "mask", DT_F32, SHAPE(1, c->n_prompts, 256, 256));
    DecoderOutputs outputs = build_decoder(&b->context, b->model, embedding, prompts);
    graph_output(graph, outputs.masks, "masks");
    graph_output(graph, outputs.iou, "iou");
    if (c->tiny) make_tiny(b->store);
    kat_bench_finish(b);
    write_embedding(b, c->tiny ? 0x1p-7f : 1);
    write_prompts(b, c);
    must(exec_run(b->exec));
    return outputs;
}

/* Rows "<what>.multi prompt B" (candidates 1 to 3) and "<what>.single prompt B" (candidate 0). */
static void expect_candidates(KatBench *b, const char *model, const DecoderCase *c,
                              const char *what, ValueId value)
{
    Shape shape;
    float *values = kat_bench_read(b, value, &shape);
    int64_t per_candidate = shape_elems(shape) / (c->n_prompts * 4);
    for (int prompt = 0; prompt < c->n_prompts; prompt++)
        for (int multi = 0; multi < 2; multi++) {
            char item[64];
            snprintf(item, sizeof item, "%s.%s prompt %d", what, multi ? "multi" : "single",
                     prompt);
            const KatRow *row = kat_find(&b->table, model, c->name, item);
            cr_assert_not_null(row, "%s", item);
            kat_expect_row(b, row, values + (prompt * 4 + multi) * per_candidate,
                           (multi ? 3 : 1) * per_candidate);
        }
    free(values);
}

static void expect_inner_rows(KatBench *b, const char *model, const DecoderCase *c)
{
    KatTable *t = &b->table;
    kat_expect_module(b, kat_find(t, model, "pe", "image_pe"), "prompt_encoder.pe_layer", true);
    kat_expect_module(b, kat_find(t, model, c->name, "sparse"), "prompt_encoder.sparse", false);
    if (c->mask)
        kat_expect_module(b, kat_find(t, model, c->name, "dense"),
                          "prompt_encoder.mask_downscaling", true);
    kat_expect_module(b, kat_find(t, model, c->name, "tokens_out"),
                      "mask_decoder.transformer.norm_final_attn", false);
    kat_expect_module(b, kat_find(t, model, c->name, "upscaled"), "mask_decoder.output_upscaling",
                      true);
    Shape shape; /* (1,M,4096,256): each prompt is turned to channels first */
    float *tokens = kat_bench_read(
        b, kat_bench_module(b->context.graph, "mask_decoder.transformer.layers.1.norm4"), &shape);
    float *turned = mem_alloc((size_t)shape_elems(shape) * sizeof *turned);
    kat_channels_first(turned, tokens, shape.dim[1], shape.dim[2], shape.dim[3]);
    kat_expect_row(b, kat_find(t, model, c->name, "image_tokens_out"), turned, shape_elems(shape));
    free(tokens);
    free(turned);
}

static void expect_decoder(const char *backend, const char *model, const char *config,
                           const DecoderCase *c, bool inner)
{
    char path[256];
    KatBench b;
    SKIP_WITHOUT("spec/kat/decoder_forward.tsv", path);
    kat_bench_open(&b, backend, config, path);
    must(kat_fill_store(b.store, "prompt_encoder."));
    must(kat_fill_store(b.store, "mask_decoder."));
    DecoderOutputs outputs = run_decoder(&b, c);
    if (inner) expect_inner_rows(&b, model, c);
    expect_candidates(&b, model, c, "lowres", outputs.masks);
    expect_candidates(&b, model, c, "iou", outputs.iou);
    kat_bench_close(&b);
}

enum { N_CASES = sizeof cases / sizeof cases[0] };

int kat_decoder_case_count(void) { return N_CASES; }

void kat_expect_decoder(const char *backend, const char *model, const char *config, int index)
{
    expect_decoder(backend, model, config, &cases[index], true);
}

void kat_expect_empty_slots_unfelt(const char *backend)
{
    expect_decoder(backend, "efficientvit_sam", "efficientvit_sam_l0", &with_empty_slots, false);
}
