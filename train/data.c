/* `retort data`: looks at data before it is trained on, and packs it.
 *
 *   retort data check ROOT.. [--lines=5] [--threads=0] [--index=FOLDER]
 *   retort data pack ROOT.. --out=FOLDER [--shard-images=11000] [--images-only] [--data.KEY=..]
 *
 * A ROOT is written as in data.root. check reads every sample as training does and prints what is
 * broken (training refuses or replaces it) or odd, with the first --lines of each kind by name; it
 * fails if something is broken. --index: where a run keeps its indexes of tar shards; they are
 * compared with the shards. pack writes tar shards of SA-1B's form of what the options of data
 * select: an id list, a part, masks that pass the filters (those of SA-1B's json are copied).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "data/check.h"
#include "data/pack.h"
#include "train/commands.h"
#include "train/recipe.h"

static const char check_usage[] = "retort data check ROOT.. [--lines=N] [--threads=N] "
                                  "[--index=FOLDER]";
static const char pack_usage[] = "retort data pack ROOT.. --out=FOLDER [--shard-images=N] "
                                 "[--images-only] [--data.KEY=VALUE ..]";

/* ---- check ---- */

static void print_kind(const CheckFindings *findings, CheckKind kind)
{
    printf("  %" PRId64 " %s\n", findings->n, check_text(kind));
    for (int64_t i = 0; i < findings->n_lines; i++) printf("    %s\n", findings->lines[i].text);
    if (findings->n > findings->n_lines)
        printf("    .. and %" PRId64 " more\n", findings->n - findings->n_lines);
}

/* Returns how many findings there were. */
static int64_t print_findings(const CheckReport *report, bool broken)
{
    int64_t n = 0;
    for (int kind = 0; kind < N_CHECK_KINDS; kind++) {
        const CheckFindings *findings = &report->kinds[kind];
        if (check_is_broken((CheckKind)kind) != broken || findings->n == 0) continue;
        if (n == 0) printf("%s\n", broken ? "broken" : "odd");
        print_kind(findings, (CheckKind)kind);
        n += findings->n;
    }
    if (n == 0) printf("nothing is %s\n", broken ? "broken" : "odd");
    return n;
}

static Status check(Args *args)
{
    CheckReport report;
    CheckConfig config = {.index_folder = args_flag(args, "index")};
    int64_t n_threads;
    TRY(args_int(args, "lines", 5, 0, 1000000, &config.n_lines));
    TRY(args_int(args, "threads", 0, 0, 4096, &n_threads));
    config.n_threads = (int)n_threads;
    const char **roots = mem_alloc((size_t)(args->n + 1) * sizeof *roots);
    while ((roots[config.n_roots] = args_positional(args)) != NULL) config.n_roots++;
    config.roots = roots;
    Status status = args_finish(args, check_usage);
    if (status == OK && config.n_roots == 0)
        status = status_fail(E_CONFIG, "name a root to check; usage: %s", check_usage);
    double start = clock_seconds();
    if (status == OK) status = check_roots(&config, &report);
    free(roots);
    TRY(status);
    printf("%" PRId64 " images, %" PRId64 " of them with masks that can be read: %" PRId64
           " masks, %" PRId64 " of them crowds; %" PRId64 " shards; %.1f s\n",
           report.n_images, report.n_with_masks, report.n_masks, report.n_crowds, report.n_shards,
           clock_seconds() - start);
    print_findings(&report, false);
    int64_t n_broken = print_findings(&report, true);
    check_report_free(&report);
    if (n_broken == 0) return OK;
    return status_fail(E_FORMAT, "%" PRId64 " faults; mend or remove what is named", n_broken);
}

/* ---- pack ---- */

/* The positional words as one --data.root=A,B in front of the other words. */
static char *join_roots(Args *args)
{
    char *text = mem_string("--data.root="), *longer;
    bool any = false;
    for (const char *root; (root = args_positional(args)); any = true, text = longer) {
        size_t n = strlen(text) + strlen(root) + 2;
        longer = mem_alloc(n);
        snprintf(longer, n, "%s%s%s", text, any ? "," : "", root);
        free(text);
    }
    if (any) return text;
    free(text);
    return NULL;
}

static Status load_options(Args *args, Options *out)
{
    char **words = mem_alloc((size_t)(args->n + 1) * sizeof *words), *roots = join_roots(args);
    Status status = OK;
    if (roots == NULL)
        status = status_fail(E_CONFIG, "name a root to pack; usage: %s", pack_usage);
    words[0] = roots;
    memcpy(words + 1, args->words, (size_t)args->n * sizeof *words);
    if (status == OK) status = options_load(NULL, args->n + 1, words, out);
    free(roots);
    free(words);
    return status;
}

static Status pack_all(const Options *options, bool masks, const PackConfig *config)
{
    Source *source;
    PackTotals totals;
    TRY(recipe_open_source(options, masks, NULL, &source));
    Status status = pack_source(source, config, &totals);
    source_close(source);
    TRY(status);
    printf("%s: %" PRId64 " images in %" PRId64 " shards, %.1f MB\n", config->folder,
           totals.n_images, totals.n_shards, 1e-6 * (double)totals.n_bytes);
    if (totals.n_left_out > 0)
        printf("left out: %" PRId64 " images, none of whose masks pass the filters\n",
               totals.n_left_out);
    return OK;
}

static Status pack(Args *args)
{
    PackConfig config = {.ops = &file_ops_system};
    Options options;
    bool masks = !args_switch(args, "images-only");
    TRY(args_need(args, "out", pack_usage, &config.folder));
    TRY(args_int(args, "shard-images", 11000, 1, INT64_C(1) << 40, &config.shard_images));
    TRY(load_options(args, &options));
    Status status = pack_all(&options, masks, &config);
    options_free(&options);
    return status;
}

Status command_data(Args *args)
{
    const char *what = args_positional(args);
    if (what && strcmp(what, "check") == 0) return check(args);
    if (what && strcmp(what, "pack") == 0) return pack(args);
    return status_fail(E_CONFIG, "wanted check or pack; usage: %s, or %s", check_usage, pack_usage);
}
