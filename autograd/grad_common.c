/* What gradient rules share. See grad_common.h. */
#include "autograd/grad_common.h"

#include <assert.h>

void grad_assert_first_only(const GradCall *call)
{
    assert(call->ddst[0] != VALUE_NONE);
    for (int i = 1; i < call->n_dst; i++) assert(call->ddst[i] == VALUE_NONE);
}

void grad_refuse(GradCall *call, int src, const char *what)
{
    if (call->need[src])
        graph_fail(call->graph, E_UNSUPPORTED, "%s: there is no gradient of %s (source %d)",
                   call->graph->label, what, src);
}

void grad_take(GradCall *call, ValueId first, int n)
{
    for (int i = 0; i < n; i++) call->dsrc[i] = graph_dst(call->graph, first, i);
}
