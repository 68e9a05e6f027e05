/* `retort teach`: the teacher's embeddings of all images of data.root, in a cache that `distill`
 * reads (teacher.embeddings). Images are decoded and resized as in training; with data.flip > 0
 * both views are kept. What is there already is not made again, so a killed process goes on where
 * it was, and several processes may share the images, each with a --part of its own; ranks of
 * torchrun, mpirun or srun take theirs by themselves.
 *
 * An image that cannot be read is named, counted and left out of the cache, up to
 * data.max_bad_fraction of all images; then teach stops. A distillation on the same data draws the
 * same samples as with the teacher inside: there, too, another image stands in for it. It is tried
 * again when teach is run again.
 *
 *   retort teach CONFIG --out=FOLDER [--part=K/N] [--key=value ..]
 *   retort teach --verify=FOLDER                read every embedding; fails if one is damaged
 *   retort teach --merge=FOLDER --out=FOLDER    the same embeddings in few shards
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/text.h"
#include "data/image.h"
#include "data/loader.h"
#include "kernels/comm/launch.h"
#include "train/commands.h"
#include "train/embeddings.h"
#include "train/log.h"
#include "train/progress.h"
#include "train/stop.h"
#include "train/teach.h"

static const char usage[] =
    "retort teach CONFIG --out=FOLDER [--part=K/N] [--key=value ..], or --verify=FOLDER, or "
    "--merge=FOLDER --out=FOLDER";

typedef struct Teach {
    const Options *options;
    Recipe recipe;
    Source *source;
    RootReader file;
    ImageReader reader;
    Step *step;
    Exec *exec;
    EmbeddingWriter *writer;
    EmbeddingCodec *codecs[EMBEDDING_MAX_VIEWS];
    EmbeddingInfo info;
    Log *log;
    Progress *progress;      /* NULL: stderr is no terminal */
    float *image, *view;     /* (S,S,3), (grid,grid,D) */
    int64_t first, end;      /* the part of the source that is this process's */
    int64_t n_todo, n_bytes; /* images not there at the start; bytes written */
    int64_t n_broken;        /* images left out */
} Teach;

/* ---- opening ---- */

static Status open_model(Teach *t)
{
    const Model *model = t->recipe.teacher;
    StepConfig config;
    if (!model) return status_fail(E_CONFIG, "teacher.model is not set; name a model description");
    TRY(recipe_load_teacher(&t->recipe, t->options));
    recipe_step_config(&t->recipe, t->options, STEP_ENCODE, &config);
    config.batch = config.micro_batch = 1;
    TRY(step_build(&config, model, t->recipe.teacher_store, 0, &t->step));
    graph_output(t->step->graph, t->step->embedding, "embedding");
    TRY(step_finish(t->step));
    TRY(exec_create(t->step->graph, t->recipe.backend, &t->exec));
    return embeddings_describe(t->options, &t->recipe, config.precision, &t->info);
}

static Status open_writer(Teach *t, const char *folder, int part, int n_parts, const FileOps *ops)
{
    EmbeddingForm form = embedding_form(&t->info);
    EmbeddingWriterConfig config = {.ops = ops,
                                    .folder = folder,
                                    .info = t->info,
                                    .part = part,
                                    .n_parts = n_parts,
                                    .shard_bytes = t->options->teach_shard_size};
    for (int v = 0; v < t->info.n_views; v++)
        TRY(embedding_codec_create(&form, (int)t->options->teach_zstd_level, &t->codecs[v]));
    TRY(embedding_writer_open(&config, &t->writer));
    if (embedding_writer_cut_bytes(t->writer) > 0)
        log_text(t->log, LOG_WARN,
                 "cut off %" PRId64
                 " bytes of an embedding that a killed process left half written",
                 embedding_writer_cut_bytes(t->writer));
    return OK;
}

static Status open_all(Teach *t, const TeachWork *work, const FileOps *ops)
{
    TRY(log_open(stderr, NULL, &t->log));
    TRY(recipe_open(t->options, &t->recipe));
    TRY(recipe_open_source(t->options, false, work->folder, &t->source));
    TRY(open_model(t));
    TRY(open_writer(t, work->folder, work->part, work->n_parts, ops));
    size_t side = (size_t)t->info.image_size,
           view = (size_t)(t->info.grid * t->info.grid * t->info.dim);
    t->image = mem_alloc(side * side * 3 * sizeof(float));
    t->view = mem_alloc(view * sizeof(float));
    int64_t n = source_size(t->source);
    t->first = n * (work->part - 1) / work->n_parts;
    t->end = n * work->part / work->n_parts;
    for (int64_t i = t->first; i < t->end; i++)
        t->n_todo += !embedding_writer_has(t->writer, source_sample_id(t->source, i));
    return image_reader_open(&t->reader);
}

static void close_all(Teach *t)
{
    if (t->log) log_attach(t->log, NULL);
    progress_close(t->progress);
    embedding_writer_leave(t->writer);
    for (int v = 0; v < EMBEDDING_MAX_VIEWS; v++) embedding_codec_destroy(t->codecs[v]);
    exec_destroy(t->exec);
    step_destroy(t->step);
    recipe_close(&t->recipe);
    source_close(t->source);
    root_reader_free(&t->file);
    image_reader_close(&t->reader);
    log_close(t->log);
    free(t->image);
    free(t->view);
}

/* ---- what it will take ---- */

/* Of one view, on an image of zeros; what the file system and zstd take comes on top. */
static Status time_view(Teach *t, double *seconds)
{
    double start = clock_seconds();
    TRY(exec_write(t->exec, t->step->image, t->image));
    TRY(exec_run(t->exec));
    *seconds = clock_seconds() - start;
    return OK;
}

static Status state_costs(Teach *t)
{
    EmbeddingForm form = embedding_form(&t->info);
    int64_t n = t->end - t->first;
    double seconds = 0, bytes = (double)embedding_plain_bytes(&form) * t->info.n_views;
    if (t->n_todo > 0) TRY(time_view(t, &seconds));
    seconds *= t->info.n_views;
    log_text(t->log, LOG_INFO,
             "%" PRId64 " of %" PRId64 " images are to be done; %.3f MB each in %s%s, %.2f GB in "
             "all; %.2f s each, about %.1f h",
             t->n_todo, n, 1e-6 * bytes, embedding_dtype_names[t->info.dtype],
             t->info.packed ? " before zstd" : "", 1e-9 * bytes * (double)t->n_todo, seconds,
             seconds * (double)t->n_todo / 3600);
    t->progress = progress_open(stderr, 0, t->n_todo);
    log_attach(t->log, t->progress);
    return OK;
}

/* ---- the work ---- */

static Status read_image(Teach *t, int64_t sample)
{
    return image_read_sample(&t->reader, &t->file, t->source, sample,
                             t->options->data_decode_margin * t->info.image_size);
}

/* The rule of the loader: named, counted, and too many are too many. */
static Status leave_out(Teach *t, Status status)
{
    double allowed = t->options->data_max_bad_fraction;
    int64_t n = source_size(t->source);
    char why[700];
    snprintf(why, sizeof why, "%s", status_message());
    if (!loader_allows_broken(allowed, ++t->n_broken, n))
        return status_fail(status,
                           "%s (broken images so far: %" PRId64 "; data.max_bad_fraction = %g "
                           "allows %" PRId64 " of %" PRId64 ")",
                           why, t->n_broken, allowed, (int64_t)(allowed * (double)n), n);
    log_text(t->log, LOG_WARN, "left out: %s (broken so far: %" PRId64 ")", why, t->n_broken);
    return OK;
}

static Status teach_view(Teach *t, int flip, const void **bytes, size_t *n_bytes)
{
    ImageSize extent;
    TRY(image_to_train_tensor(&t->reader, t->info.image_size, flip, t->image, &extent));
    TRY(exec_write(t->exec, t->step->image, t->image));
    TRY(exec_run(t->exec));
    TRY(exec_read_f32(t->exec, t->step->embedding, t->view));
    return embedding_encode(t->codecs[flip], t->view, bytes, n_bytes);
}

static Status name_image(const Teach *t, int64_t sample, Status status)
{
    char name[ROOT_NAME_BYTES], why[512];
    snprintf(why, sizeof why, "%s", status_message());
    source_image_name(t->source, sample, name);
    return status_fail(status, "%.400s: %s", name, why);
}

static Status teach_image(Teach *t, int64_t sample)
{
    const void *bytes[EMBEDDING_MAX_VIEWS];
    size_t n_bytes[EMBEDDING_MAX_VIEWS];
    Status status = read_image(t, sample);
    if (status == E_FILE || status == E_FORMAT) return leave_out(t, status);
    TRY(status);
    for (int flip = 0; flip < t->info.n_views; flip++) {
        status = teach_view(t, flip, &bytes[flip], &n_bytes[flip]);
        if (status != OK) return name_image(t, sample, status);
        t->n_bytes += (int64_t)n_bytes[flip];
    }
    return embedding_writer_append(t->writer, source_sample_id(t->source, sample), bytes, n_bytes);
}

static void show_image(Teach *t, int64_t n_done, double seconds)
{
    progress_step(t->progress, &(ProgressStep){.n_images = 1, .loss = NAN, .seconds = seconds});
    if (t->progress || (n_done % t->options->run_log_every != 0 && n_done < t->n_todo)) return;
    log_text(t->log, LOG_INFO, "image %" PRId64 "/%" PRId64 ", %.2f s", n_done, t->n_todo, seconds);
}

static Status teach_all(Teach *t)
{
    int64_t n_done = 0;
    for (int64_t i = t->first; i < t->end; i++) {
        if (embedding_writer_has(t->writer, source_sample_id(t->source, i))) continue;
        double start = clock_seconds();
        TRY(teach_image(t, i));
        show_image(t, ++n_done, clock_seconds() - start);
        if (stop_asked() && n_done < t->n_todo)
            return status_fail(E_INTERRUPTED,
                               "stopped by signal %d after %" PRId64 " of %" PRId64
                               " images; go on with the same command",
                               stop_asked(), n_done, t->n_todo);
    }
    return OK;
}

static Status finish(Teach *t)
{
    EmbeddingWriter *writer = t->writer;
    int64_t n_done = t->n_todo - t->n_broken;
    t->writer = NULL;
    TRY(embedding_writer_finish(writer));
    if (t->n_todo > 0)
        log_text(t->log, LOG_INFO,
                 "%" PRId64 " images are done, %.3f MB each; %" PRId64 " broken ones were left out",
                 n_done, 1e-6 * (double)t->n_bytes / (double)(n_done ? n_done : 1), t->n_broken);
    return OK;
}

Status teach_run(const Options *options, const TeachWork *work, const FileOps *ops)
{
    Teach t = {.options = options};
    stop_watch();
    Status status = open_all(&t, work, ops);
    if (status == OK) status = state_costs(&t);
    if (status == OK) status = teach_all(&t);
    if (status == OK) status = finish(&t);
    close_all(&t);
    return status;
}

/* ---- what is there ---- */

static void print_line(void *context, const char *line) { fprintf(context, "%s\n", line); }

static void print_census(const EmbeddingInfo *info, const EmbeddingCensus *census)
{
    printf("%" PRId64 " images in %" PRId64 " shards (%" PRId64 " not sealed), %.3f MB each\n",
           census->n_images, census->n_shards, census->n_unsealed,
           1e-6 * (double)census->n_bytes / (double)(census->n_images ? census->n_images : 1));
    printf("teacher %s in %s, %" PRId64 " px; %d of the two flips; %s%s\nimages by %s\n",
           info->teacher, info->precision, info->image_size, info->n_views,
           embedding_dtype_names[info->dtype], info->packed ? ", packed by zstd" : "",
           info->preprocess);
}

static Status verify(const char *folder)
{
    EmbeddingCache *cache;
    EmbeddingCensus census;
    TRY(embedding_cache_open(folder, &cache));
    Status status = embedding_cache_verify(cache, print_line, stdout, &census);
    print_census(embedding_cache_info(cache), &census);
    embedding_cache_close(cache);
    return status;
}

static Status merge(const char *from, const char *to, int64_t shard_bytes)
{
    EmbeddingCache *cache;
    EmbeddingWriter *writer = NULL;
    int64_t n_merged;
    TRY(embedding_cache_open(from, &cache));
    EmbeddingWriterConfig config = {.ops = &file_ops_system,
                                    .folder = to,
                                    .info = *embedding_cache_info(cache),
                                    .part = 1,
                                    .n_parts = 1,
                                    .shard_bytes = shard_bytes};
    Status status = embedding_writer_open(&config, &writer);
    if (status == OK) {
        status = embedding_writer_merge(writer, cache, &n_merged);
        if (status == OK)
            status = embedding_writer_finish(writer);
        else
            embedding_writer_leave(writer);
    }
    if (status == OK) printf("%" PRId64 " images from %s to %s\n", n_merged, from, to);
    embedding_cache_close(cache);
    return status;
}

/* ---- the command ---- */

static Status parse_part(const char *text, TeachWork *work)
{
    char *slash = mem_string(text), *at = strchr(slash, '/');
    int64_t part = 0, n_parts = 0;
    if (at) *at = '\0';
    bool good = at && text_to_int(slash, &part) && text_to_int(at + 1, &n_parts) && part >= 1 &&
                part <= n_parts && n_parts <= 99999;
    free(slash);
    if (!good)
        return status_fail(E_CONFIG,
                           "--part=%.100s: wanted K/N, the K-th of N processes, as in 1/4", text);
    work->part = (int)part;
    work->n_parts = (int)n_parts;
    return OK;
}

/* Ranks need not speak with each other: each keeps its part of the images in shards of its own. */
static Status part_of_rank(bool given, TeachWork *work)
{
    Launch launch;
    TRY(launch_from_environment(&launch));
    if (launch.world_size == 1) return OK;
    if (given)
        return status_fail(E_CONFIG,
                           "--part is given, but this is rank %d of %d started by %s, which takes "
                           "its part by itself; keep one",
                           launch.rank, launch.world_size, launch.launcher);
    work->part = launch.rank + 1;
    work->n_parts = launch.world_size;
    return OK;
}

Status command_teach(Args *args)
{
    const char *folder = args_flag(args, "verify"), *from = args_flag(args, "merge");
    const char *part = args_flag(args, "part"), *config = args_positional(args);
    TeachWork work = {.part = 1, .n_parts = 1};
    if (folder) {
        TRY(args_finish(args, usage));
        return verify(folder);
    }
    TRY(args_need(args, "out", usage, &work.folder));
    if (part) TRY(parse_part(part, &work));
    if (!from) TRY(part_of_rank(part != NULL, &work));
    Options options;
    TRY(options_load(config, args->n, args->words, &options));
    Status status = from ? merge(from, work.folder, options.teach_shard_size)
                         : teach_run(&options, &work, &file_ops_system);
    options_free(&options);
    return status;
}
