/* `retort teach`: the teacher's embeddings of all images of data.root, in shards that `distill`
 * reads (teacher.embeddings). Images are decoded and resized as in training; with data.flip > 0
 * both views are kept. Shards that are already there are checked but not made again, so a killed
 * run goes on where it was.
 *
 *   retort teach CONFIG --out=FOLDER [--key=value ..]
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/image.h"
#include "train/commands.h"
#include "train/embeddings.h"
#include "train/recipe.h"

static const char usage[] = "retort teach CONFIG --out=FOLDER [--key=value ..]";

typedef struct Teach {
    const char *folder;
    Options options;
    Recipe recipe;
    Source *source;
    RootReader file;
    ImageReader reader;
    Step *step;
    Exec *exec;
    EmbeddingsInfo info;
    float *image;                       /* (S,S,3) */
    float *views[EMBEDDINGS_PER_SHARD]; /* (grid,grid,D) each */
    uint64_t ids[EMBEDDINGS_PER_SHARD];
    bool flips[EMBEDDINGS_PER_SHARD];
} Teach;

static Status open_model(Teach *t)
{
    const Model *model = t->recipe.teacher;
    StepConfig config = {
        .kind = STEP_ENCODE, .bn = BN_EVAL, .precision = DT_F32, .batch = 1, .micro_batch = 1};
    if (!model) return status_fail(E_CONFIG, "teacher.model is not set; name a model description");
    TRY(recipe_load_teacher(&t->recipe, &t->options));
    TRY(step_build(&config, model, t->recipe.teacher_store, 0, &t->step));
    graph_output(t->step->graph, t->step->embedding, "embedding");
    TRY(step_finish(t->step));
    TRY(exec_create(t->step->graph, t->recipe.backend, &t->exec));
    t->info = (EmbeddingsInfo){.image_size = model_image_size(model),
                               .grid = model_grid(model),
                               .dim = model_embed_dim(model),
                               .flips = t->options.data_flip > 0};
    return embeddings_teacher_id(t->options.teacher_weights, t->options.seed,
                                 t->info.teacher_sha256);
}

static Status open_all(Teach *t)
{
    TRY(recipe_open(&t->options, &t->recipe));
    TRY(open_model(t));
    TRY(recipe_open_source(&t->options, false, &t->source));
    TRY(file_make_folders(t->folder));
    size_t side = (size_t)t->info.image_size,
           view = (size_t)(t->info.grid * t->info.grid * t->info.dim);
    t->image = mem_alloc(side * side * 3 * sizeof(float));
    for (int i = 0; i < EMBEDDINGS_PER_SHARD; i++) t->views[i] = mem_alloc(view * sizeof(float));
    return image_reader_open(&t->reader);
}

/* Which views a shard holds; returns their number. */
static int list_views(Teach *t, int64_t first, int64_t end)
{
    int n = 0;
    for (int64_t sample = first; sample < end; sample++)
        for (int flip = 0; flip <= t->info.flips; flip++, n++) {
            t->ids[n] = source_sample_id(t->source, sample);
            t->flips[n] = flip;
        }
    return n;
}

static Status read_image(Teach *t, int64_t sample, int64_t smallest_px)
{
    char name[ROOT_NAME_BYTES];
    size_t n_bytes;
    source_image_name(t->source, sample, name);
    TRY(source_read_image(t->source, sample, &t->file, &n_bytes));
    return image_decode(&t->reader, name, t->file.file.data, n_bytes, smallest_px);
}

static Status teach_view(Teach *t, int slot)
{
    ImageSize extent;
    TRY(image_to_train_tensor(&t->reader, t->info.image_size, t->flips[slot], t->image, &extent));
    TRY(exec_write(t->exec, t->step->image, t->image));
    TRY(exec_run(t->exec));
    return exec_read(t->exec, t->step->embedding, t->views[slot]);
}

static Status teach_shard(Teach *t, int64_t shard, int64_t first, int64_t end)
{
    int n = list_views(t, first, end), slot = 0;
    int64_t smallest_px = t->options.data_decode_margin * t->info.image_size;
    char *path = embeddings_shard_path(t->folder, shard);
    bool there = file_exists(path);
    free(path);
    if (there) return embeddings_check_shard(t->folder, shard, &t->info, n, t->ids, t->flips);
    for (int64_t sample = first; sample < end; sample++) {
        TRY(read_image(t, sample, smallest_px));
        for (int flip = 0; flip <= t->info.flips; flip++) TRY(teach_view(t, slot++));
    }
    TRY(embeddings_write_shard(t->folder, shard, &t->info, n, t->ids, t->flips,
                               (const float *const *)t->views));
    fprintf(stderr, "shard %" PRId64 ": images %" PRId64 " to %" PRId64 " of %" PRId64 "\n", shard,
            first, end - 1, source_size(t->source));
    return OK;
}

static Status teach_all(Teach *t)
{
    int64_t per_shard = EMBEDDINGS_PER_SHARD / (t->info.flips ? 2 : 1), n = source_size(t->source);
    double bytes = (double)(n * (1 + t->info.flips)) *
                   (double)(t->info.grid * t->info.grid * t->info.dim) * 2;
    fprintf(stderr, "%" PRId64 " images, %.1f MB of embeddings in f16\n", n, 1e-6 * bytes);
    for (int64_t shard = 0; shard * per_shard < n; shard++) {
        int64_t end = (shard + 1) * per_shard;
        TRY(teach_shard(t, shard, shard * per_shard, end < n ? end : n));
    }
    return OK;
}

Status command_teach(Args *args)
{
    Teach t = {0};
    const char *config = args_positional(args);
    TRY(args_need(args, "out", usage, &t.folder));
    TRY(options_load(config, args->n, args->words, &t.options));
    Status status = open_all(&t);
    if (status == OK) status = teach_all(&t);
    exec_destroy(t.exec);
    step_destroy(t.step);
    recipe_close(&t.recipe);
    source_close(t.source);
    root_reader_free(&t.file);
    image_reader_close(&t.reader);
    free(t.image);
    for (int i = 0; i < EMBEDDINGS_PER_SHARD; i++) free(t.views[i]);
    options_free(&t.options);
    return status;
}
