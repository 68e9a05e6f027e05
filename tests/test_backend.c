/* Backends are opened by name, and a wrong name is told what the right ones are. */
#include <criterion/criterion.h>
#include <string.h>

#include "kernels/backend.h"

Test(backend, unknown_name_lists_the_known)
{
    Backend *backend = NULL;
    cr_assert_eq(backend_open("gpu", 1, &backend), E_CONFIG);
    cr_assert_null(backend);
    cr_assert(strstr(status_message(), "\"gpu\""), "%s", status_message());
    cr_assert(strstr(status_message(), "cpu, cuda, ref"), "%s", status_message());
}

Test(backend, cuda_is_refused_without_its_plug_in)
{
    Backend *backend = NULL;
    cr_assert_eq(backend_open("cuda", 1, &backend), E_UNSUPPORTED);
    cr_assert(strstr(status_message(), "no plug-in"), "%s", status_message());
    cr_assert(strstr(status_message(), "make CUDA=1"), "%s", status_message());
}

Test(backend, memory_is_zero_and_copies_both_ways)
{
    static const char *const names[] = {"ref", "cpu"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Backend *backend;
        void *memory;
        int values[3] = {1, 2, 3}, back[4];
        cr_assert_eq(backend_open(names[i], 1, &backend), OK, "%s", status_message());
        cr_assert_str_eq(backend->name, names[i]);
        cr_assert_eq(backend->alloc(backend, sizeof back, &memory), OK, "%s", status_message());
        cr_assert_eq((uintptr_t)memory % 64, 0);
        cr_assert_eq(backend->upload(backend, memory, values, sizeof values), OK);
        cr_assert_eq(backend->download(backend, back, memory, sizeof back), OK);
        cr_assert_eq(backend->wait(backend), OK);
        cr_assert(back[0] == 1 && back[1] == 2 && back[2] == 3 && back[3] == 0, "%s", names[i]);
        backend->free(backend, memory, sizeof back);
        backend_close(backend);
    }
}
