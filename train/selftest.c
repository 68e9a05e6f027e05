/* `retort selftest`: is my loss right?
 *
 *   retort selftest [FOLDER] [--config=F.yaml] [--band=F.tsv] [--key=value ..]
 *
 * Paints scenes, trains on them as the config says, and compares the mean loss of every twenty
 * steps with a band that the repository keeps. Inside: this machine, this compiler and these
 * libraries train as those did that made the band. Outside: the run says in which window, and
 * fails. Scenes, sample order, prompts and initial weights are functions of the seed, so what is
 * left is rounding, for which the band has room (see scripts/selftest_band.sh).
 *
 * FOLDER keeps scenes and run; without it they lie in a temporary folder and are removed.
 */
#include <ftw.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "train/commands.h"
#include "train/report.h"
#include "train/trainer.h"

static const char usage[] =
    "retort selftest [FOLDER] [--config=F.yaml] [--band=F.tsv] [--key=value ..]";

enum { WINDOW = 20, MAX_WINDOWS = 64 };

typedef struct Band { /* of each window of WINDOW steps */
    int n;
    double low[MAX_WINDOWS], high[MAX_WINDOWS];
} Band;

/* ---- the band ---- */

static Status read_band(const char *path, Band *band)
{
    FILE *file = fopen(path, "r");
    char line[256];
    int number = 0;
    Status status = OK;
    if (!file)
        return status_fail(E_FILE, "%s: cannot be opened; run from the repository's root, or name "
                                   "the band with --band", path);
    band->n = 0;
    while (status == OK && fgets(line, sizeof line, file)) {
        int first;
        number++;
        if (line[0] == '#') continue;
        if (band->n == MAX_WINDOWS ||
            sscanf(line, "%d %lf %lf", &first, &band->low[band->n], &band->high[band->n]) != 3 ||
            first != band->n * WINDOW || !(band->low[band->n] < band->high[band->n]))
            status = status_fail(E_FORMAT,
                                 "%s:%d: wanted the first step of window %d, which is %d, "
                                 "and the lowest and highest mean loss",
                                 path, number, band->n, band->n * WINDOW);
        band->n++;
    }
    fclose(file);
    return status;
}

static double mean_loss(const ReportLog *log, int window)
{
    double sum = 0;
    for (int i = 0; i < WINDOW; i++) sum += log->steps[window * WINDOW + i].loss;
    return sum / WINDOW;
}

static Status compare(const ReportLog *log, const Band *band)
{
    int n_outside = 0;
    if (log->n != band->n * WINDOW)
        return status_fail(E_FORMAT, "the run has %d steps, the band is of %d", log->n,
                           band->n * WINDOW);
    printf("%5s %12s %12s %12s\n", "step", "lowest", "loss", "highest");
    for (int w = 0; w < band->n; w++) {
        double loss = mean_loss(log, w);
        bool inside = loss >= band->low[w] && loss <= band->high[w]; /* NaN is not */
        printf("%5d %12.6f %12.6f %12.6f%s\n", w * WINDOW, band->low[w], loss, band->high[w],
               inside ? "" : "  outside");
        n_outside += !inside;
    }
    if (n_outside == 0) return OK;
    return status_fail(E_NUMERIC, "the loss is outside the band in %d of %d windows", n_outside,
                       band->n);
}

/* ---- the run ---- */

static Status paint(const char *scenes)
{
    char *words[] = {(char *)scenes, "--images=48",   "--seed=1",
                     "--size=192x144", "--masks=3..7", "--scale=1.5"};
    Args args = {.n = 6, .words = words};
    return command_synth(&args);
}

static Status train(const char *folder, const char *config, const Args *args, ReportLog *log)
{
    Options options;
    char *scenes = file_join(folder, "scenes"), *run = file_join(folder, "run");
    char **words = mem_alloc((size_t)(args->n + 2) * sizeof *words);
    memcpy(words, args->words, (size_t)args->n * sizeof *words);
    words[args->n] = mem_alloc(strlen(scenes) + 32);
    words[args->n + 1] = mem_alloc(strlen(run) + 32);
    sprintf(words[args->n], "--data.root=%s", scenes);
    sprintf(words[args->n + 1], "--run.dir=%s", run);
    Status status = options_load(config, args->n + 2, words, &options);
    if (status == OK) {
        status = paint(scenes);
        if (status == OK) status = trainer_run(&options, STEP_FINETUNE, &file_ops_system);
        options_free(&options);
    }
    char *records = file_join(run, "log.jsonl");
    if (status == OK) status = report_log_read(records, log);
    free(records);
    free(words[args->n]);
    free(words[args->n + 1]);
    free(words);
    free(run);
    free(scenes);
    return status;
}

static Status run_selftest(Args *args, const char *folder)
{
    const char *config = args_flag(args, "config"), *band_path = args_flag(args, "band");
    Band band;
    ReportLog log = {0};
    TRY(read_band(band_path ? band_path : "configs/recipes/selftest.tsv", &band));
    Status status = train(folder, config ? config : "configs/recipes/selftest.yaml", args, &log);
    if (status == OK) status = compare(&log, &band);
    report_log_free(&log);
    if (status == OK) printf("the loss is right: inside the band in all %d windows\n", band.n);
    return status;
}

/* ---- the command ---- */

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info, (void)kind, (void)place;
    return remove(path);
}

Status command_selftest(Args *args)
{
    const char *named = args_positional(args);
    if (named) return run_selftest(args, named);
    char folder[] = "/tmp/retort-selftest-XXXXXX";
    if (!mkdtemp(folder))
        return status_fail(E_FILE, "%s: cannot be made; name a folder: %s", folder, usage);
    Status status = run_selftest(args, folder);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return status;
}
