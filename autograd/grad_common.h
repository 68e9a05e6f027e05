/* What gradient rules share. Used by autograd/grad_*.c only. */
#ifndef RETORT_AUTOGRAD_GRAD_COMMON_H
#define RETORT_AUTOGRAD_GRAD_COMMON_H

#include "autograd/rules.h"

/* grad_assert_first_only: destinations behind the first are statistics (means, log-sum-exps, sums).
 * No loss may depend on them: a gradient that arrives there is a mistake of the model builder. */
void grad_assert_first_only(const GradCall *call);

/* grad_refuse: source `src` (`what`) has no gradient; asking for one is a sticky error
 * E_UNSUPPORTED, since silence would train nothing. */
void grad_refuse(GradCall *call, int src, const char *what);

/* grad_take: dsrc[i] = destination i of the node whose first destination is `first`, for n sources.
 */
void grad_take(GradCall *call, ValueId first, int n);

#endif
