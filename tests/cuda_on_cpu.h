// Runs CUDA C on the CPU: for tests where there is no GPU. One fiber a thread, the blocks one after the other.
//
// A fiber runs until it meets a barrier or a shuffle. A warp goes on alone as far as it can before the next has its
// turn, from the first to the last or from the last to the first, so that a forgotten barrier shows in one of the two
// orders. Errors: a barrier or shuffle that some threads reach and others do not, or elsewhere in the text; an address
// outside of the arrays. Shared memory is full of NaN when a block begins.
#pragma once
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <utility>
#include <vector>

struct dim3 { unsigned x, y, z; };
const size_t SHARED = 48 << 10; // bytes that a block has on every GPU
alignas(16) double shared[2 * SHARED / sizeof(double)];

namespace cpu {
enum State { READY, AT_SHUFFLE, AT_BARRIER, DONE };
struct Thread { ucontext_t context; dim3 index; State state; int line; uint64_t sent, seen; };
inline std::vector<Thread> threads;
inline Thread *now;
inline ucontext_t scheduler;
inline dim3 grid, block, at;
inline std::function<void()> body;
inline bool descending;
inline const char *fault;

inline void pause(State state, int line) { now->state = state; now->line = line; swapcontext(&now->context, &scheduler); }
inline void run_thread() { body(); pause(DONE, 0); }
inline void bad_address(int) { fault = "an address outside of the arrays"; setcontext(&scheduler); }

// Lets the lanes first … last−1 run until each waits at a barrier or has ended
inline void run_warp(int first, int last) {
    for (;;) {
        for (int k = first; k < last && !fault; k++) {
            now = &threads[descending ? first + last - 1 - k : k];
            if (now->state == READY) swapcontext(&scheduler, &now->context);
        }
        bool shuffle = false, together = true;
        for (int k = first; k < last; k++) {
            shuffle |= threads[k].state == AT_SHUFFLE;
            together &= threads[k].state == threads[first].state && threads[k].line == threads[first].line;
        }
        if (shuffle && !together) fault = "a shuffle that not all lanes of the warp reach";
        if (!shuffle || fault) return;
        for (int k = first; k < last; k++) { threads[k].seen = threads[k].sent; threads[k].state = READY; }
    }
}

inline void run_block(size_t shared_bytes) {
    const size_t stack = 64 << 10;
    static std::vector<char> stacks;
    int count = threads.size(), warps = (count + 31) / 32;
    stacks.resize(count * stack);
    memset(shared, 0xff, sizeof shared);
    for (int k = 0; k < count; k++) {
        Thread &t = threads[k];
        getcontext(&t.context);
        t.context.uc_stack = {&stacks[k * stack], 0, stack};
        t.index = {k % block.x, k / block.x % block.y, k / block.x / block.y};
        t.state = READY;
        makecontext(&t.context, run_thread, 0);
    }
    for (bool running = true; running && !fault;) {
        for (int w = 0; w < warps && !fault; w++) {
            int first = (descending ? warps - 1 - w : w) * 32;
            run_warp(first, std::min(first + 32, count));
        }
        State state = threads[0].state;
        int line = threads[0].line;
        for (Thread &t : threads) {
            if (!fault && (t.state != state || t.line != line)) fault = "a barrier that not all threads of the block reach";
            t.state = READY;
        }
        running = state != DONE;
    }
    for (size_t i = shared_bytes; i < sizeof shared; i++)
        if (!fault && ((unsigned char *)shared)[i] != 0xff) fault = "shared memory beyond what was asked for";
}

template <class T> T shuffle(T value, int source, int line) {
    memcpy(&now->sent, &value, sizeof value);
    pause(AT_SHUFFLE, line);
    if (source >= 0 && source < 32) memcpy(&value, &threads[(now - &threads[0]) / 32 * 32 + source].seen, sizeof value);
    return value;
}
inline int lane() { return (now - &threads[0]) % 32; }

// A copy of an array that ends where a page begins that nobody may touch; what is in front of it is NaN
struct Guarded {
    static const size_t page = 4096;
    char *memory, *copy;
    size_t bytes, room;
    Guarded(const void *data, size_t bytes) : bytes(bytes), room((bytes + page) / page * page) {
        memory = (char *)mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(memory + room, page, PROT_NONE);
        memset(memory, 0xff, room);
        copy = memory + room - bytes;
        memcpy(copy, data, bytes);
    }
    ~Guarded() { munmap(memory, room + page); }
    bool intact() { return std::all_of(memory, copy, [](char c) { return c == (char)0xff; }); }
};

struct Argument { void *data; long long bytes; int item; }; // bytes of an array, or −1: a scalar; size of an element
typedef std::function<const char *(dim3, dim3, size_t, const std::vector<Argument> &)> Runner;

template <class A> bool fits(const Argument &given) {
    if constexpr (std::is_pointer_v<A>) return given.bytes >= 0 ? given.item == sizeof(std::remove_pointer_t<A>) : given.item == sizeof(A);
    return given.bytes < 0 && given.item == sizeof(A);
}

template <class... A, size_t... I> Runner runner(void (*kernel)(A...), std::index_sequence<I...>) {
    return [kernel](dim3 grid_, dim3 block_, size_t shared_bytes, const std::vector<Argument> &given) -> const char * {
        if (given.size() != sizeof...(A) || !(fits<A>(given[I]) && ...)) return "arguments that are not the kernel's";
        if (shared_bytes > SHARED || block_.x * block_.y * block_.z > 1024) return "more threads or shared memory than a block can have";
        std::vector<std::unique_ptr<Guarded>> arrays;
        void *values[] = {(arrays.emplace_back(given[I].bytes < 0 ? nullptr : new Guarded(given[I].data, given[I].bytes)),
                           arrays[I] ? (void *)&arrays[I]->copy : given[I].data)...};
        body = [&] { kernel(*(A *)values[I]...); };
        grid = grid_; block = block_; fault = nullptr;
        threads.assign(block.x * block.y * block.z, Thread());
        for (at.z = 0; at.z < grid.z; at.z++) for (at.y = 0; at.y < grid.y; at.y++) for (at.x = 0; at.x < grid.x; at.x++)
            if (!fault) run_block(shared_bytes);
        for (auto &array : arrays) if (array && !fault && !array->intact()) fault = "an address in front of an array";
        const bool written[] = {std::is_pointer_v<A> && !std::is_const_v<std::remove_pointer_t<A>>...};
        for (size_t i = 0; i < sizeof...(A); i++) if (written[i] && arrays[i]) memcpy(given[i].data, arrays[i]->copy, arrays[i]->bytes);
        return fault;
    };
}
template <class... A> Runner runner(void (*kernel)(A...)) { return runner(kernel, std::index_sequence_for<A...>()); }

inline const char *launch(const Runner &run, dim3 grid, dim3 block, size_t shared_bytes, const std::vector<Argument> &given) {
    struct sigaction action = {}, before[2];
    action.sa_handler = bad_address;
    sigaction(SIGSEGV, &action, before); sigaction(SIGBUS, &action, before + 1);
    const char *said = run(grid, block, shared_bytes, given);
    sigaction(SIGSEGV, before, nullptr); sigaction(SIGBUS, before + 1, nullptr);
    return said;
}
} // namespace cpu

#define threadIdx cpu::now->index
#define blockIdx cpu::at
#define blockDim cpu::block
#define gridDim cpu::grid
#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(threads)
#define __syncthreads() cpu::pause(cpu::AT_BARRIER, __LINE__)
#define __shfl_sync(mask, value, source) cpu::shuffle(value, source, __LINE__)
#define __shfl_xor_sync(mask, value, other) cpu::shuffle(value, cpu::lane() ^ (other), __LINE__)
using std::erf, std::exp, std::log, std::max, std::min, std::sqrt, std::tanh;
