/* YAML: configs of runs and models. */
#include "base/yaml.h"
#include "tests/fuzz/fuzz.h"

void fuzz_yaml(const uint8_t *bytes, size_t n_bytes)
{
    Yaml *root;
    if (yaml_load(fuzz_file(bytes, n_bytes), &root) != OK) return;
    (void)yaml_check_all_seen(root);
    yaml_destroy(root);
}
