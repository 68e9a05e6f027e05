/* Every input that is kept for fuzzing, good and bad, once through its reader. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "tests/fuzz/fuzz.h"

static void run_inputs(const char *name, FuzzTarget target)
{
    char folder[128];
    int n = 0;
    snprintf(folder, sizeof folder, "tests/fuzz/inputs/%s", name);
    DIR *entries = opendir(folder);
    cr_assert_not_null(entries, "%s is missing", folder);
    for (const struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        char *path = file_join(folder, entry->d_name), *bytes;
        size_t n_bytes;
        cr_assert_eq(file_read(path, 1 << 20, &bytes, &n_bytes), OK);
        target((const uint8_t *)bytes, n_bytes);
        free(bytes);
        free(path);
        n++;
    }
    closedir(entries);
    cr_expect_gt(n, 0, "%s holds no input", folder);
}

Test(fuzz, annotations) { run_inputs("annotations", fuzz_annotations); }
Test(fuzz, coco) { run_inputs("coco", fuzz_coco); }
Test(fuzz, embeddings) { run_inputs("embeddings", fuzz_embeddings); }
Test(fuzz, jpeg) { run_inputs("jpeg", fuzz_jpeg); }
Test(fuzz, rle) { run_inputs("rle", fuzz_rle); }
Test(fuzz, safetensors) { run_inputs("safetensors", fuzz_safetensors); }
Test(fuzz, state) { run_inputs("state", fuzz_state); }
Test(fuzz, tar) { run_inputs("tar", fuzz_tar); }
Test(fuzz, torch) { run_inputs("torch", fuzz_torch); }
Test(fuzz, yaml) { run_inputs("yaml", fuzz_yaml); }
