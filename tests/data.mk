# Measures and checks of the data path that take longer than tests; included by the Makefile.

# An index of SA-1B's size: time to open, memory, cost of the next sample. Shards are sparse: 180 MB on disk.
bench-index: $(BUILD)/tests/bench_index
	rm -rf $(BUILD)/tmp/bench_index
	$< $(BUILD)/tmp/bench_index
	rm -rf $(BUILD)/tmp/bench_index
$(BUILD)/tests/bench_index: $(BUILD)/tests/bench_index.o $(BUILD)/libretort.a
	$(CC) $(EXTRA) $^ $(LDLIBS) -o $@

# The loader's threads under ThreadSanitizer, on painted scenes of which one is broken.
TSAN_SRC = tests/tsan_loader.c tests/loader_hash.c $(wildcard base/*.c data/*.c)
tsan: all
	rm -rf $(BUILD)/tmp/tsan
	$(BUILD)/retort synth $(BUILD)/tmp/tsan --images=8 --seed=1
	echo broken >`ls $(BUILD)/tmp/tsan/*.jpg | head -n 1`
	$(CC) $(filter-out -fopenmp -MMD -MP,$(CFLAGS)) -O1 -fsanitize=thread $(TSAN_SRC) $(filter-out -fopenmp -ldnnl -lgloo,$(LDLIBS)) -o $(BUILD)/tsan_loader
	$(BUILD)/tsan_loader $(BUILD)/tmp/tsan

.PHONY: bench-index tsan
