// Calls the functions of a library as standard input tells: what ctypes does, for a library of another processor.
//
// A call is a name [32 bytes], then int64 words: how many pieces of memory, and of each its size, how far past a
// multiple of 64 it lies, and its bytes; how many links, and of each in which piece at which byte the address of which
// piece belongs; how many arguments, and of each its sort and a number, the bits of one, or a piece. The answer: a
// word, then the bytes of all pieces as the call has left them.

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

enum Sort : int64_t { INTEGER, FLOAT, PIECE };
constexpr int64_t LINE = 64;
constexpr int MOST = 12;  // integers and addresses of a call

// On 64-bit ARM integers and addresses go one way and floats another, and what a function does not take it does not see.
typedef int64_t (*Function)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                            int64_t, int64_t, float);

void read(void* to, size_t size) {
    if (fread(to, 1, size, stdin) != size) exit(0);  // whoever calls has ended
}

int64_t word() {
    int64_t found;
    read(&found, sizeof found);
    return found;
}

struct Piece {
    std::vector<char> room;
    int64_t size;
    char* bytes;

    Piece(int64_t count, int64_t past) : room(count + 2 * LINE), size(count) {
        bytes = room.data() + LINE - reinterpret_cast<uintptr_t>(room.data()) % LINE + past;
        read(bytes, size);
    }
    int64_t address() const { return reinterpret_cast<int64_t>(bytes); }
};

std::vector<Piece> read_pieces() {
    std::vector<Piece> pieces;
    for (int64_t left = word(); left > 0; --left) {
        const int64_t size = word(), past = word();
        pieces.emplace_back(size, past);
    }
    for (int64_t left = word(); left > 0; --left) {
        const int64_t in = word(), at = word(), address = pieces[word()].address();
        memcpy(pieces[in].bytes + at, &address, sizeof address);
    }
    return pieces;
}

int64_t call(Function function, const std::vector<Piece>& pieces) {
    int64_t integers[MOST] = {}, count = 0;
    float number = 0;
    for (int64_t left = word(); left > 0; --left) {
        const int64_t sort = word(), value = word();
        if (sort == FLOAT)
            memcpy(&number, &value, sizeof number);
        else
            integers[count++] = sort == PIECE ? pieces[value].address() : value;
    }
    const int64_t* i = integers;
    return function(i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9], i[10], i[11], number);
}

int main(int, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
    for (;;) {
        char name[32];
        read(name, sizeof name);
        const std::vector<Piece> pieces = read_pieces();
        void* function = dlsym(library, name);
        if (!function) return fprintf(stderr, "%s\n", dlerror()), 1;
        const int64_t result = call(reinterpret_cast<Function>(function), pieces);
        fwrite(&result, sizeof result, 1, stdout);
        for (const Piece& piece : pieces) fwrite(piece.bytes, 1, piece.size, stdout);
        fflush(stdout);
    }
}
