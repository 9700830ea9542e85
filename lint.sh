#!/usr/bin/env bash
# Checks the source with pinned tools.
set -euo pipefail
cd "$(dirname "$0")"

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0

# silent runs a tool whose standard output is all complaints.
silent() {
	local out
	out=$("$@") && [ -z "$out" ] && return
	printf '%s\n' "$out"
	return 1
}

# vulnerabilities needs a database from the network; only its absence is forgiven.
vulnerabilities() {
	local out
	out=$(go run $govulncheck ./... 2>&1) && return
	printf '%s\n' "$out"
	grep -q '^govulncheck: fetching vulnerabilities: ' <<<"$out" || return 1
	echo 'NOT CHECKED: the vulnerability database cannot be reached'
}

status=0
check() {
	printf -- '-- %s\n' "$*"
	"$@" || status=1
}
check silent go run cmd/gofmt -l .
check go vet ./...
check go run $staticcheck ./...
check silent go fix -diff ./...
check go mod tidy -diff
check vulnerabilities
exit $status
