/* The rules by which a broken run is explained. See verdict.h. */
#include "kernels/comm/verdict.h"

#include <stdio.h>
#include <string.h>

void verdict_place(const WirePosition *position, char *out, size_t out_bytes)
{
    if (position->step < 0)
        snprintf(out, out_bytes, "the start, %s", position->doing);
    else
        snprintf(out, out_bytes, "step %lld, %s", (long long)position->step, position->doing);
}

static bool say(char *out, size_t out_bytes, int rank, const RankView *view, const char *what)
{
    char place[256];
    verdict_place(&view->position, place, sizeof place);
    snprintf(out, out_bytes, "rank %d %s (%s%s)", rank, what, view->joined ? "last seen in " : "",
             view->joined ? place : "at the start");
    return true;
}

static bool find_failure(int n, const RankView *ranks, char *out, size_t out_bytes)
{
    for (int r = 0; r < n; r++) {
        if (ranks[r].failure[0] == '\0') continue;
        char what[WIRE_TEXT_BYTES + 16];
        snprintf(what, sizeof what, "stopped: %s", ranks[r].failure);
        return say(out, out_bytes, r, &ranks[r], what);
    }
    return false;
}

static bool find_gone(int n, const RankView *ranks, char *out, size_t out_bytes)
{
    for (int r = 0; r < n; r++)
        if (ranks[r].gone && !ranks[r].finished)
            return say(out, out_bytes, r, &ranks[r],
                       "died: its connection broke without a farewell");
    return false;
}

static bool same_collective(const WirePosition *a, const WirePosition *b)
{
    return a->collective_step == b->collective_step &&
           a->collective_bytes == b->collective_bytes && strcmp(a->collective, b->collective) == 0;
}

/* Ranks that have entered equally many collectives must be in the same one. With two of one kind
 * the odd one out is clear; else rank 0 is taken to be right. */
static bool find_divergence(int n, const RankView *ranks, char *out, size_t out_bytes)
{
    for (int r = 1; r < n; r++) {
        const WirePosition *a = &ranks[0].position, *b = &ranks[r].position;
        if (!ranks[0].joined || !ranks[r].joined || b->sequence == 0) continue;
        if (a->sequence != b->sequence || same_collective(a, b)) continue;
        int odd = r, other = r == 1 ? 2 : 1;
        if (n > 2 && ranks[other].position.sequence == b->sequence &&
            same_collective(&ranks[other].position, b))
            odd = 0;
        const WirePosition *wrong = odd == 0 ? a : b, *right = odd == 0 ? b : a;
        snprintf(out, out_bytes,
                 "rank %d diverged: it is in step %lld, %s, %lld bytes, where rank %d is in step "
                 "%lld, %s, %lld bytes",
                 odd, (long long)wrong->collective_step, wrong->collective,
                 (long long)wrong->collective_bytes, odd == 0 ? r : 0,
                 (long long)right->collective_step, right->collective,
                 (long long)right->collective_bytes);
        return true;
    }
    return false;
}

static bool find_silence(int n, const RankView *ranks, int64_t timeout_ms, char *out,
                         size_t out_bytes)
{
    char what[128];
    for (int r = 0; r < n; r++) {
        const RankView *view = &ranks[r];
        if (!view->joined && view->absent_ms > timeout_ms) {
            snprintf(what, sizeof what, "did not come within %lld s",
                     (long long)timeout_ms / 1000);
            return say(out, out_bytes, r, view, what);
        }
        if (view->joined && !view->finished && view->silent_ms > timeout_ms) {
            snprintf(what, sizeof what, "hangs: no sign of life for %lld s",
                     (long long)timeout_ms / 1000);
            return say(out, out_bytes, r, view, what);
        }
    }
    return false;
}

/* A rank that others wait for, and that does nothing. */
static bool find_standstill(int n, const RankView *ranks, int64_t timeout_ms, char *out,
                            size_t out_bytes)
{
    int waits = 0, slow = 0;
    for (int r = 0; r < n; r++) {
        if (!ranks[r].joined) return false;
        if (ranks[r].position.sequence < ranks[slow].position.sequence) slow = r;
        if (ranks[r].position.sequence > ranks[waits].position.sequence) waits = r;
    }
    if (!ranks[waits].position.waiting || ranks[slow].stuck_ms <= timeout_ms ||
        ranks[slow].position.sequence == ranks[waits].position.sequence ||
        ranks[slow].position.excused)
        return false;
    char what[256];
    snprintf(what, sizeof what, "%s for %lld s while rank %d waits for it in %s",
             ranks[slow].finished ? "has finished" : "has done nothing",
             (long long)timeout_ms / 1000, waits, ranks[waits].position.collective);
    return say(out, out_bytes, slow, &ranks[slow], what);
}

/* All have come, and yet it does not end. */
static bool find_dead_network(int n, const RankView *ranks, int64_t timeout_ms, char *out,
                              size_t out_bytes)
{
    for (int r = 0; r < n; r++)
        if (!ranks[r].joined || !ranks[r].position.waiting || ranks[r].stuck_ms <= timeout_ms ||
            ranks[r].position.sequence != ranks[0].position.sequence)
            return false;
    snprintf(out, out_bytes, "the network hangs: all ranks, rank 0 too, wait for %lld s in step "
                             "%lld, %s",
             (long long)timeout_ms / 1000, (long long)ranks[0].position.collective_step,
             ranks[0].position.collective);
    return true;
}

static bool find_symptom(int n, const RankView *ranks, char *out, size_t out_bytes)
{
    for (int r = 0; r < n; r++)
        if (ranks[r].symptom[0] != '\0' && ranks[r].symptom_ms > SYMPTOM_PATIENCE_MS)
            return say(out, out_bytes, r, &ranks[r], ranks[r].symptom);
    return false;
}

bool verdict_find(int n_ranks, const RankView *ranks, int64_t timeout_ms, char *out,
                  size_t out_bytes)
{
    return find_failure(n_ranks, ranks, out, out_bytes) ||
           find_gone(n_ranks, ranks, out, out_bytes) ||
           find_divergence(n_ranks, ranks, out, out_bytes) ||
           find_silence(n_ranks, ranks, timeout_ms, out, out_bytes) ||
           find_standstill(n_ranks, ranks, timeout_ms, out, out_bytes) ||
           find_dead_network(n_ranks, ranks, timeout_ms, out, out_bytes) ||
           find_symptom(n_ranks, ranks, out, out_bytes);
}
