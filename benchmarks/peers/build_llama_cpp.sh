#!/bin/sh
# Builds llama.cpp's programs for `hanbit bench ... --peer llama.cpp`, out of the sources inside the llama-cpp-python sdist.
#
#     benchmarks/peers/build_llama_cpp.sh DIR        # then: --peer-path DIR/build/bin
#
# Needs python3 with pip and venv, and a C++ compiler; CMake and Ninja come from the package index into DIR/venv. Nothing of it
# is part of an installation of hanbit. Half an hour of one core.
set -eu
VERSION=0.3.36
[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
DIR=$(cd "$1" && pwd)
[ -x "$DIR/venv/bin/ninja" ] || { python3 -m venv "$DIR/venv" && "$DIR/venv/bin/pip" install --quiet cmake ninja; }
PATH="$DIR/venv/bin:$PATH"
SOURCES="$DIR/llama_cpp_python-$VERSION/vendor/llama.cpp"
if [ ! -d "$SOURCES" ]; then
    # The sdist itself is all that is wanted; pip asks its build back end for a name and a version, and compiles nothing
    pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$DIR" "llama-cpp-python==$VERSION"
    tar -xzf "$DIR/llama_cpp_python-$VERSION.tar.gz" -C "$DIR"
fi
cmake -G Ninja -S "$SOURCES" -B "$DIR/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
ninja -C "$DIR/build" ${JOBS:+-j$JOBS} llama-bench llama-batched-bench llama-perplexity llama-quantize llama-completion
