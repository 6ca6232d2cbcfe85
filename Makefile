# The commands of daily work. Each is a script or one line of cargo; nothing else depends on make.
.PHONY: build fast test long bench demo fmt

# Static release binaries in bin/.
build:
	scripts/build.sh

# Before each commit: no root, no packages, at most two minutes after the build.
fast:
	scripts/test.sh --fast

# What continuous integration runs. As root.
test:
	scripts/test.sh

# The same with longer runs. As root.
long:
	scripts/test.sh --long

# Writes docs/bench.md and docs/bench.svg. Needs host-local and an idle machine.
bench:
	scripts/bench.sh

# A playground: known configurations, twenty pods, a full range, damage and its repair, the status page.
demo:
	scripts/demo.sh

fmt:
	cargo fmt --all
