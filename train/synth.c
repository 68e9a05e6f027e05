/* `retort synth`: paints scenes with masks in SA-1B's form, for whoever has no data.
 *
 *   retort synth FOLDER --images=N [--seed=0] [--size=384x288] [--masks=8..24] [--scale=1]
 *                [--min-area=24] [--shards=K] [--threads=0]
 *
 * Writes sa_1.jpg, sa_1.json, .. or, with --shards, sa_000000.tar .. that hold them, split evenly.
 * --masks: objects of a scene, each with a mask as far as it can be seen; parts come on top.
 * --scale: how much larger than usual objects are, for models that see few pixels. --min-area: px
 * of an object that must be seen, else it is painted without a mask. The same seed gives the same
 * bytes, whatever the number of threads, and image N does not depend on how many there are.
 */
#include <inttypes.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "data/sa1b_write.h"
#include "data/synth.h"
#include "data/tar_write.h"
#include "train/commands.h"

static const char usage[] =
    "retort synth FOLDER --images=N [--seed=S] [--size=WIDTHxHEIGHT] "
    "[--masks=MIN..MAX] [--scale=X] [--min-area=PX] [--shards=K] [--threads=T]";

typedef struct Job {
    const char *folder;
    int64_t n_images, n_shards; /* 0 shards: loose files */
    int64_t n_threads;
    SynthConfig config;
} Job;

typedef struct Totals { /* of one thread, then of all */
    int64_t n_masks, n_bytes;
    double box_fill; /* sum over masks of the IoU of the filled box with the mask */
} Totals;

typedef struct Worker { /* of one thread */
    const Job *job;
    SynthPainter *painter;
    Sa1bEncoder *encoder;
    Sa1bAnnotation annotations[SYNTH_MAX_OBJECTS * (1 + SYNTH_MAX_PARTS)];
    TarWriter *tar; /* the shard at hand, or NULL */
    Totals totals;
} Worker;

/* Nothing of this data is lost that could not be made again, so files are renamed into place when
 * complete, but the disk need not be waited for. */
static int no_fsync(void *context, int fd)
{
    (void)context, (void)fd;
    return 0;
}

static FileOps file_ops(void)
{
    FileOps ops = file_ops_system;
    ops.fsync = no_fsync;
    return ops;
}

/* ---- One image ---- */

static Status put_file(Worker *worker, const Sa1bFile *file)
{
    worker->totals.n_bytes += (int64_t)file->n_bytes;
    if (worker->tar) return tar_add(worker->tar, file->name, file->bytes, file->n_bytes);
    const FileOps ops = file_ops();
    char *path = file_join(worker->job->folder, file->name);
    Status status = file_replace(&ops, path, file->bytes, file->n_bytes);
    free(path);
    return status;
}

static double box_fill(const Rle *mask)
{
    int64_t box[4];
    rle_bbox(mask, box);
    return (double)rle_area(mask) / (double)(box[2] * box[3]);
}

static Status make_image(Worker *worker, int64_t number)
{
    SynthImage scene;
    Sa1bFile jpeg, json;
    TRY(synth_paint(worker->painter, (uint64_t)number, &scene));
    for (int64_t i = 0; i < scene.n_masks; i++) {
        const SynthMask *mask = &scene.masks[i];
        worker->annotations[i] = (Sa1bAnnotation){.mask = mask->mask,
                                                  .point = {mask->point[0], mask->point[1]},
                                                  .predicted_iou = 1, /* the mask is exact */
                                                  .stability_score = 1};
        worker->totals.box_fill += box_fill(&mask->mask);
    }
    worker->totals.n_masks += scene.n_masks;
    const Sa1bImage image = {.id = number,
                             .height = scene.height,
                             .width = scene.width,
                             .pixels = scene.pixels,
                             .annotations = worker->annotations,
                             .n_annotations = scene.n_masks};
    TRY(sa1b_encode(worker->encoder, &image, &jpeg, &json));
    TRY(put_file(worker, &jpeg));
    return put_file(worker, &json);
}

/* ---- A piece of the work: one image, or one shard ---- */

static Status fill_shard(Worker *worker, int64_t shard)
{
    const Job *job = worker->job;
    int64_t first = shard * job->n_images / job->n_shards;
    int64_t end = (shard + 1) * job->n_images / job->n_shards;
    for (int64_t i = first; i < end; i++) TRY(make_image(worker, i + 1));
    return OK;
}

static Status make_shard(Worker *worker, int64_t shard)
{
    char name[32];
    snprintf(name, sizeof name, "sa_%06" PRId64 ".tar", shard);
    char *path = file_join(worker->job->folder, name);
    const FileOps ops = file_ops();
    Status status = tar_open(&ops, path, &worker->tar);
    free(path);
    TRY(status);
    status = fill_shard(worker, shard);
    if (status == OK)
        status = tar_commit(worker->tar);
    else
        tar_discard(worker->tar);
    worker->tar = NULL;
    return status;
}

static Status make_piece(Worker *worker, int64_t piece)
{
    return worker->job->n_shards ? make_shard(worker, piece) : make_image(worker, piece + 1);
}

/* ---- All of it ---- */

static Status worker_open(Worker *worker, const Job *job)
{
    worker->job = job;
    TRY(synth_painter_create(&job->config, &worker->painter));
    return sa1b_encoder_create(&worker->encoder);
}

static void worker_close(Worker *worker)
{
    synth_painter_destroy(worker->painter);
    sa1b_encoder_destroy(worker->encoder);
    free(worker);
}

typedef struct Failure { /* the first one; messages are per thread, so it is carried over */
    Status status;
    char *message;
} Failure;

static void note(Failure *failure, Status status)
{
    if (status == OK) return;
#pragma omp critical(synth_failure)
    if (failure->status == OK) *failure = (Failure){status, mem_string(status_message())};
}

static void add_totals(Totals *sum, const Totals *part)
{
#pragma omp critical(synth_totals)
    {
        sum->n_masks += part->n_masks;
        sum->n_bytes += part->n_bytes;
        sum->box_fill += part->box_fill;
    }
}

static Status make_all(const Job *job, Totals *totals)
{
    int64_t n_pieces = job->n_shards ? job->n_shards : job->n_images;
    int n_threads = job->n_threads ? (int)job->n_threads : omp_get_num_procs();
    Failure failure = {0};
#pragma omp parallel num_threads(n_threads)
    {
        Worker *worker = mem_alloc(sizeof *worker);
        Status status = worker_open(worker, job);
        note(&failure, status);
#pragma omp for schedule(dynamic)
        for (int64_t piece = 0; piece < n_pieces; piece++) {
            if (status != OK) continue;
            status = make_piece(worker, piece);
            note(&failure, status);
        }
        add_totals(totals, &worker->totals);
        worker_close(worker);
    }
    if (failure.status == OK) return OK;
    Status status = status_fail(failure.status, "%s", failure.message);
    free(failure.message);
    return status;
}

/* ---- Command line ---- */

/* "384x288", "8..24": two whole numbers with `between` in the middle. */
static Status take_pair(Args *args, const char *name, const char *between, int64_t *first,
                        int64_t *second)
{
    const char *text = args_flag(args, name);
    if (!text) return OK;
    char *left = mem_string(text), *middle = strstr(left, between);
    bool good = middle != NULL;
    if (good) {
        *middle = '\0';
        good = text_to_int(left, first) && text_to_int(middle + strlen(between), second);
    }
    free(left);
    if (good && *first >= 1 && *second >= 1 && *first <= 4096 && *second <= 4096) return OK;
    return status_fail(E_CONFIG, "--%s=%s: wanted two numbers of 1 to 4096, as in 384%s288", name,
                       text, between);
}

static Status parse(Args *args, Job *job)
{
    int64_t seed = 0, width = 384, height = 288, fewest = 8, most = 24, min_area;
    double scale = 1;
    job->folder = args_positional(args);
    if (!job->folder) return status_fail(E_CONFIG, "name a folder to write to; usage: %s", usage);
    TRY(args_int(args, "images", 0, 1, 100000000, &job->n_images));
    if (job->n_images == 0)
        return status_fail(E_CONFIG, "--images=.. is missing; usage: %s", usage);
    TRY(args_int(args, "seed", 0, 0, INT64_C(1) << 53, &seed));
    TRY(args_int(args, "shards", 0, 0, job->n_images, &job->n_shards));
    TRY(args_int(args, "threads", 0, 0, 4096, &job->n_threads));
    TRY(take_pair(args, "size", "x", &width, &height));
    TRY(take_pair(args, "masks", "..", &fewest, &most));
    TRY(args_double(args, "scale", 1, &scale));
    TRY(args_int(args, "min-area", SYNTH_MIN_AREA, SYNTH_MIN_AREA, 4096 * 4096, &min_area));
    job->config = (SynthConfig){.seed = (uint64_t)seed,
                                .height = height,
                                .width = width,
                                .min_objects = (int)fewest,
                                .max_objects = (int)most,
                                .scale = scale,
                                .min_area = min_area};
    return args_finish(args, usage);
}

Status command_synth(Args *args)
{
    Job job = {0};
    Totals totals = {0};
    TRY(parse(args, &job));
    TRY(file_make_folders(job.folder));
    double start = clock_seconds();
    TRY(make_all(&job, &totals));
    double seconds = clock_seconds() - start;
    printf("%s: %" PRId64 " images, %" PRId64 " masks (%.1f an image), %.1f MB, %.1f images/s\n",
           job.folder, job.n_images, totals.n_masks, (double)totals.n_masks / (double)job.n_images,
           1e-6 * (double)totals.n_bytes, (double)job.n_images / seconds);
    printf("average IoU of a mask's filled box with the mask: %.3f\n",
           totals.box_fill / (double)totals.n_masks);
    return OK;
}
