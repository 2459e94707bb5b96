# make check: everything that must hold before a change goes in.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@2026.1

.PHONY: all check test build generate

all: build

build:
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/buildd ./cmd/buildctl

check:
	script/check

test:
	script/test

# generate makes the code of our own APIs from proto/.
generate:
	script/generate
