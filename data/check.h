/* What is missing, broken or odd in the data that a run would read. Called by `retort data check`.
 *
 * Every sample is read as the loader reads it: its image decoded, its masks parsed and measured.
 * Nothing stops at a fault. `Broken` is what the loader refuses or replaces, `odd` what it takes
 * but what a person should know of.
 */
#ifndef RETORT_DATA_CHECK_H
#define RETORT_DATA_CHECK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* X(name, broken, what is counted) */
#define CHECK_KINDS(X)                                                              \
    X(CHECK_SHARD, true, "shards and instance files that cannot be read")           \
    X(CHECK_MIXED, true, "folders that hold shards and loose images")               \
    X(CHECK_NO_IMAGE, true, "images that are missing or cannot be opened")          \
    X(CHECK_BAD_IMAGE, true, "images that are damaged")                             \
    X(CHECK_NO_MASKS, true, "images without masks among others that have them")     \
    X(CHECK_BAD_MASKS, true, "images whose masks cannot be read")                   \
    X(CHECK_OTHER_SIZE, true, "images of another size than their masks")            \
    X(CHECK_TWINS, true, "samples with the id of another one")                      \
    X(CHECK_LISTED, true, "ids of sa_images_ids.txt without an image, or twice")    \
    X(CHECK_LONE_MASKS, false, "mask files without an image")                       \
    X(CHECK_NO_OBJECT, false, "images without any mask to train on")                \
    X(CHECK_EMPTY, false, "masks without a pixel")                                  \
    X(CHECK_LARGE, false, "masks that cover over 90 % of their image")              \
    X(CHECK_AREA, false, "masks whose area is not what their file says")            \
    X(CHECK_BOX, false, "masks whose box is not what their file says, by over 1 px") \
    X(CHECK_OUTSIDE, false, "outlines that leave their image")                      \
    X(CHECK_INDEX, false, "kept indexes of shards that are damaged or out of date")

#define CHECK_ENUMERATOR(name, broken, text) name,
typedef enum CheckKind { CHECK_KINDS(CHECK_ENUMERATOR) N_CHECK_KINDS } CheckKind;
#undef CHECK_ENUMERATOR

typedef struct CheckConfig {
    const char *const *roots; /* as in data/source.h; weights mean nothing here */
    int n_roots;
    const char *index_folder; /* whose indexes of shards are compared with them; NULL: none */
    int64_t n_lines;          /* findings of each kind that are told, the first ones */
    int n_threads;            /* 0: one per core */
} CheckConfig;

typedef struct CheckLine {
    int64_t order; /* findings are told in the order of the data, whichever thread met them */
    char *text;
} CheckLine;

typedef struct CheckFindings { /* of one kind */
    int64_t n;
    CheckLine *lines; /* (n_lines) */
    int64_t n_lines;
} CheckFindings;

typedef struct CheckReport {
    pthread_mutex_t mutex; /* while it is made */
    int64_t n_shards, n_images, n_with_masks, n_masks, n_crowds; /* as far as they could be read */
    CheckFindings kinds[N_CHECK_KINDS];
} CheckReport;

bool check_is_broken(CheckKind kind);
const char *check_text(CheckKind kind); /* what is counted */

/* check_roots: a report of all roots together.
 * errors  E_CONFIG, E_FILE if a root is not there or holds nothing to check; E_MEMORY. Faults of
 *         the data are no failure */
Status check_roots(const CheckConfig *config, CheckReport *out);
void check_report_free(CheckReport *report);

#endif
