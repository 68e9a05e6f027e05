# Checks that take longer than tests, or need more than Debian's packages; included by the Makefile.

# Ranks on this machine: equal losses, and RANK_KILLS kills or stops of one rank of four at random moments.
RANK_KILLS ?= 3
test-ranks: all
	scripts/test_ranks.sh $(BUILD)/retort $(RANK_KILLS)
# A real Slurm of Debian's slurm-wlm on this machine, as root; and a real torchrun from PyPI's torch.
test-slurm: all
	scripts/setup.sh slurm-wlm munge
	scripts/test_slurm.sh $(BUILD)/retort
test-torchrun: all peers
	PATH=$(CURDIR)/$(BUILD)/oracle/bin:$$PATH scripts/test_torchrun.sh $(BUILD)/retort

# Damages each gradient rule in turn; every mutant must turn the gradient check red.
mutants: $(BUILD)/tests/mutants
	$<

# Runs that are killed, and whose files fail, again and again, end in the same bits.
KILLS ?= 200
FAULTS ?= 20
crashtest: $(BUILD)/tests/crashtest
	$< $(KILLS) $(FAULTS)
$(BUILD)/tests/crashtest: $(BUILD)/tests/make_scenes.o

# Memory stays flat over 20,000 samples of the loader and over 2,000 steps.
flat: all $(BUILD)/tests/flat_loader
	scripts/flat.sh $(BUILD)/retort $(BUILD)/tests/flat_loader
$(BUILD)/tests/flat_loader: $(BUILD)/tests/flat_loader.o $(BUILD)/tests/loader_hash.o $(BUILD)/libretort.a
	$(CC) $(EXTRA) $^ $(LDLIBS) -o $@

# PyTorch, the official models and others that judge ours, in a Python environment of its own. Nothing else needs it.
peers:
	scripts/setup.sh python3-venv
	python3 -m venv $(BUILD)/oracle
	$(BUILD)/oracle/bin/pip install --quiet torch torchvision numpy safetensors efficientsam segment-anything \
		openvino pycocotools pillow

# Files and whole models to PyTorch and back, and mean IoU against pycocotools.
oracle: all peers
	$(BUILD)/oracle/bin/python tests/oracle/interop.py $(BUILD)/retort
	$(BUILD)/oracle/bin/python tests/oracle/golden.py $(BUILD)/golden
	$(BUILD)/oracle/bin/python tests/oracle/models.py $(BUILD)/golden $(BUILD)/retort
	$(BUILD)/oracle/bin/python tests/oracle/predictor.py $(BUILD)/golden $(BUILD)/retort
	$(BUILD)/oracle/bin/python tests/oracle/miou.py $(BUILD)/retort

# Against PyTorch and OpenVINO, in turns: on an idle machine, about half an hour. PEER_ROWS="encoder distill" takes
# some rows (tests/peer/cases.py), PEER_PRECISIONS=f32 one precision, PEER_REPEATS=1 fewer rounds; results gather in
# PEER_OUT.
PEER_ROWS ?=
PEER_PRECISIONS ?= f32,bf16
PEER_REPEATS ?= 0
PEER_OUT ?= $(BUILD)/peer
bench-peer: all peers
	scripts/setup.sh libjemalloc2
	$(BUILD)/oracle/bin/python tests/peer/bench.py $(PEER_OUT) $(BUILD)/retort --rows="$(PEER_ROWS)" \
		--precisions=$(PEER_PRECISIONS) --repeats=$(PEER_REPEATS)
	$(BUILD)/oracle/bin/python tests/peer/table.py $(PEER_OUT) | tee $(PEER_OUT)/table.md

# The table of what low precision costs each model (README.md); IMAGE is any photograph.
deviations: $(BUILD)/tests/deviations
	$< $(IMAGE)

# A training step of every model in bf16 and fp16 against f32; ViT-H should need 12 GB.
precision: $(BUILD)/tests/precision_long
	$< -j1 --verbose

# Known answers that take minutes and 4 GB: ViT-H and other large encoders.
kat-long: $(BUILD)/tests/kat_long
	$< -j1 --verbose

# 10,000 damaged files of each kind, with their memory measured, and again with every access checked.
fuzz-files:
	$(MAKE) BUILD=$(BUILD)/fuzz EXTRA=-DFUZZ_ROUNDS=10000 $(BUILD)/fuzz/tests/test_weights_damage
	$(BUILD)/fuzz/tests/test_weights_damage -j1 --verbose
	$(MAKE) BUILD=$(BUILD)/fuzz-checked OPT="-O1 -march=$(ARCH)" EXTRA="$(SANITIZE) -DFUZZ_ROUNDS=10000" \
		$(BUILD)/fuzz-checked/tests/test_weights_damage
	ASAN_OPTIONS=detect_leaks=0:max_allocation_size_mb=128 \
		$(BUILD)/fuzz-checked/tests/test_weights_damage -j1 --verbose

.PHONY: peers test-ranks test-slurm test-torchrun mutants crashtest flat oracle bench-peer deviations precision \
    kat-long fuzz-files
