// The memory behind dram.sv: a file mapped into the simulator, and the list of what may be touched.
//
// Python maps the same file (sim/dram.py), so that both see each other's writes at once. The list
// is the text file <memory file>.map, read again whenever it was replaced; a line each:
//
//   read <low> <high> <name>    bytes low to high - 1 may be read
//   write <low> <high> <name>   ... read and written
//   slverr <low> <high>         ... answer SLVERR
//   decerr <low> <high>         ... answer DECERR

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "svdpi.h"

namespace {

// What an access returns: the AXI response in the low bits, and:
constexpr int kForbidden = 4;

constexpr int kSlaveError = 2;
constexpr int kDecodeError = 3;

struct Range {
    uint64_t low;
    uint64_t high;
    bool holds(uint64_t first, uint64_t bytes) const {
        return low <= first && first + bytes <= high;
    }
};

struct Buffer {
    Range range;
    bool writable;
};

struct Failure {
    Range range;
    int response;
};

struct Memory {
    std::string map_path;
    uint64_t base;
    uint64_t size;
    uint8_t* bytes;
    std::vector<Buffer> buffers;
    std::vector<Failure> failures;
    struct timespec map_time {};
    ino_t map_inode = 0;

    bool inside(uint64_t address, uint64_t count) const {
        return Range{base, base + size}.holds(address, count);
    }
    bool granted(uint64_t address, uint64_t count, bool write) const {
        for (const Buffer& buffer : buffers)
            if (buffer.range.holds(address, count) && (buffer.writable || !write)) return true;
        return false;
    }
    int response(uint64_t address, uint64_t count) const {
        if (!inside(address, count)) return kDecodeError;
        for (const Failure& failure : failures)
            if (failure.range.holds(address, count)) return failure.response;
        return 0;
    }
    int access(uint64_t address, uint64_t count, bool write) const {
        int answer = response(address, count);
        // An injected failure stands for a buffer that is not there: no second complaint.
        if (answer && inside(address, count)) return answer;
        return granted(address, count, write) ? answer : answer | kForbidden;
    }
    void load_map() {
        buffers.clear();
        failures.clear();
        std::ifstream file(map_path);
        std::string line;
        while (std::getline(file, line)) {
            std::istringstream words(line);
            std::string kind, low, high;
            words >> kind >> low >> high;
            Range range{std::strtoull(low.c_str(), nullptr, 0),
                        std::strtoull(high.c_str(), nullptr, 0)};
            if (kind == "read") buffers.push_back({range, false});
            if (kind == "write") buffers.push_back({range, true});
            if (kind == "slverr") failures.push_back({range, kSlaveError});
            if (kind == "decerr") failures.push_back({range, kDecodeError});
        }
    }
};

Memory& memory_at(void* handle) { return *static_cast<Memory*>(handle); }

}  // namespace

extern "C" {

// Maps the file, or $VITESSERA_DRAM when `path` is empty; null when that fails.
void* dram_open(const char* path, unsigned long long base) {
    const char* chosen = *path ? path : std::getenv("VITESSERA_DRAM");
    if (!chosen) return nullptr;
    int file = open(chosen, O_RDWR);
    if (file < 0) return nullptr;
    struct stat facts {};
    if (fstat(file, &facts) != 0 || facts.st_size == 0) return nullptr;
    uint64_t size = facts.st_size;
    void* bytes = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (bytes == MAP_FAILED) return nullptr;
    return new Memory{std::string(chosen) + ".map", base, size, static_cast<uint8_t*>(bytes), {}, {}};
}

// Reads the map again if it was replaced.
void dram_refresh(void* handle) {
    Memory& memory = memory_at(handle);
    struct stat facts {};
    if (stat(memory.map_path.c_str(), &facts) != 0) return;
    bool same = facts.st_ino == memory.map_inode &&
                facts.st_mtim.tv_sec == memory.map_time.tv_sec &&
                facts.st_mtim.tv_nsec == memory.map_time.tv_nsec;
    if (same) return;
    memory.map_inode = facts.st_ino;
    memory.map_time = facts.st_mtim;
    memory.load_map();
}

// Reads a beat. What may not be read comes back as ones.
int dram_read(void* handle, unsigned long long address, int bytes, svBitVecVal* data) {
    Memory& memory = memory_at(handle);
    int answer = memory.access(address, bytes, false);
    if (answer)
        std::memset(data, 0xff, bytes);
    else
        std::memcpy(data, memory.bytes + (address - memory.base), bytes);
    return answer;
}

// Writes the bytes of a beat that `strobe` selects. What may not be written stays as it is.
int dram_write(void* handle, unsigned long long address, int bytes, const svBitVecVal* data,
               const svBitVecVal* strobe) {
    Memory& memory = memory_at(handle);
    uint32_t selected = strobe[0] & ((1u << bytes) - 1);
    if (selected == 0) return memory.response(address, bytes);  // nothing is touched
    int answer = memory.access(address, bytes, true);
    if (answer) return answer;
    uint8_t* target = memory.bytes + (address - memory.base);
    const uint8_t* source = reinterpret_cast<const uint8_t*>(data);
    for (int i = 0; i < bytes; i++)
        if (selected >> i & 1) target[i] = source[i];
    return 0;
}

}  // extern "C"
