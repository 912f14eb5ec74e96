# Every target sets up what it needs, on a machine that has only Python 3.11+ and make.
#
#   make test PYTHONS=3.12 ARGS="-k outcome"    this Python, some tests
#   make demo PYTHON=/path/to/python3           this Python
#   make demo ADAPTER=redis                      on a server, with several processes
#   make demo ADAPTER=postgres                   the same on a PostgreSQL that it starts
#   make demo ADAPTER=sqlite                     in one file, with several processes
#   make chaos ONLY=3,5                         some scenarios
#   make test-all AFTER=test                    without what `make test` has just run
#   make chaos ONLY=histories COUNT=300         histories by chance, 300 on each kind of server

.POSIX:
.PHONY: help demo test test-all check bench bench-redis bench-sqlite bench-postgres bench-outbox chaos cost docs diagrams api changelog release flake lock clean

PYTHON =
PYTHONS =
ARGS =
AFTER =
ADAPTER =
ONLY =
COUNT = 50
FIND = PYTHON='$(PYTHON)' PYTHONS='$(PYTHONS)' MAKE_TARGET=$@ sh tools/find-python

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile

demo: ## three contexts, one bus, and an account that nothing was lost; ADAPTER=postgres, redis or sqlite: with several processes
	@case '$(ADAPTER)' in \
		'' | memory | sqlite) environment=.venv requirements=runtime.txt ;; \
		redis | postgres) environment='.venv-$(ADAPTER)' requirements='demo-$(ADAPTER).txt' ;; \
		*) echo "ADAPTER is '$(ADAPTER)'; it can be memory, postgres, redis or sqlite" >&2; exit 2 ;; \
	esac \
		&& python=$$($(FIND)) && "$$python" tools/make_venv.py "$$environment" "requirements/$$requirements" \
		&& "$$environment/bin/promenade-bus" demo $(ADAPTER:%=--adapter %) $(ARGS)

test: ## in a few minutes: ruff, mypy, and the suite on one CPython and one Redis server
	@PYTHON='$(PYTHON)' PYTHONS='$(PYTHONS)' MAKE_TARGET=$@ AFTER= sh tools/run-tests $@ $(ARGS)

test-all: ## everything: pyright too, the long tests, each CPython and each server that is found
	@PYTHON='$(PYTHON)' PYTHONS='$(PYTHONS)' MAKE_TARGET=$@ AFTER='$(AFTER)' sh tools/run-tests $@ $(ARGS)

check: ## ruff, mypy --strict, pyright, and the tests of architecture and prose
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py ".venv-$${found%% *}" requirements/dev.txt \
		&& sh tools/run-checks ".venv-$${found%% *}"

bench: ## the engine against a bare loop and against its peers
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py .venv-bench requirements/bench.txt \
		&& .venv-bench/bin/python benchmarks/run.py $(ARGS)

chaos: ## what can go wrong with Redis, SQLite and PostgreSQL, with real processes, at full length: about 40 minutes
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py ".venv-$${found%% *}" requirements/dev.txt \
		&& PYTHONPATH=tests ".venv-$${found%% *}/bin/python" -m chaos --only '$(ONLY)' --count '$(COUNT)' $(ARGS)

bench-redis: ## the Redis adapter against redis-py by hand, and against its peers
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py .venv-bench requirements/bench.txt \
		&& "$${found#* }" tools/make_venv.py .venv-bench-arq requirements/bench-arq.txt \
		&& .venv-bench/bin/python benchmarks/run_redis.py $(ARGS)

bench-sqlite: ## the SQLite adapter against sqlite3 by hand
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py .venv-bench requirements/bench.txt \
		&& .venv-bench/bin/python benchmarks/run_sqlite.py $(ARGS)

bench-postgres: ## the PostgreSQL adapter against psycopg by hand, and against its peers
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py .venv-bench requirements/bench.txt \
		&& .venv-bench/bin/python benchmarks/run_postgres.py $(ARGS)

bench-outbox: ## the outbox against an INSERT, a claim loop by hand, and NOTIFY
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py .venv-bench requirements/bench.txt \
		&& .venv-bench/bin/python benchmarks/run_outbox.py $(ARGS)

docs: ## the site, into build/site: every page, and the reference made from the code
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py .venv-docs requirements/docs.txt \
		&& export PYTHONPATH=tools && .venv-docs/bin/python -m promenade_site stage \
		&& .venv-docs/bin/python -m sphinx -q -W --keep-going -j auto -c tools/promenade_site -d build/site-state \
			$(ARGS) build/site-pages build/site \
		&& .venv-docs/bin/python -m promenade_site check

diagrams: ## draw docs/diagrams again, from the tables of the code
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py ".venv-$${found%% *}" requirements/dev.txt \
		&& PYTHONPATH=tools ".venv-$${found%% *}/bin/python" -m promenade_site draw

api: ## write the public API down again, into tests/project/public_api.txt
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py ".venv-$${found%% *}" requirements/dev.txt \
		&& PYTHONPATH=tools ".venv-$${found%% *}/bin/python" -m promenade_site api

flake: ## the contract of adapters and the tests of the kit, 50 times in random order (COUNT=50)
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py ".venv-$${found%% *}" requirements/dev.txt \
		&& sh tools/run-flake ".venv-$${found%% *}" '$(COUNT)' $(ARGS)

cost: ## count again what an event costs on each path, on each CPython: rewrites tests/bus/cost_per_event.json
	@$(FIND) --all | while read -r version python; do \
		"$$python" tools/make_venv.py ".venv-$$version" requirements/dev.txt </dev/null \
		&& PYTHONPATH=tests:benchmarks ".venv-$$version/bin/python" -m support.cost_per_event </dev/null || exit 1; \
	done

changelog: ## move the fragments of changelog.d into the changelogs of their distributions
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py ".venv-$${found%% *}" requirements/dev.txt \
		&& PYTHONPATH=tools ".venv-$${found%% *}/bin/python" -m promenade_release.changelog

release: ## every wheel and sdist into dist/: built twice, compared, checked, with the order of upload
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py ".venv-$${found%% *}" requirements/dev.txt \
		&& PYTHONPATH=tools ".venv-$${found%% *}/bin/python" -m promenade_release $(ARGS)

lock: ## compile requirements/*.in into hash-pinned requirements/*.txt
	@found=$$($(FIND) --all | head -n 1) && test -n "$$found" \
		&& "$${found#* }" tools/make_venv.py ".venv-$${found%% *}" requirements/dev.txt \
		&& sh tools/lock .venv-tools/bin/uv $(ARGS)

clean: ## remove the environments, the caches and what was built
	@echo "==> removing environments, caches and built files"
	@rm -rf .venv .venv-3.* .venv-bench .venv-bench-arq .venv-docs .venv-lowest .venv-postgres .venv-redis .venv-tools .venv-lock .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
