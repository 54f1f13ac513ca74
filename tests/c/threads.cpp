// A multithreaded C++ program: containers, strings, exceptions, over-aligned objects, every form of new and delete. Prints
// a sum that does not depend on the allocator.
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct alignas(256) Aligned {
    unsigned char bytes[300];
};

static int handled = 0;

static std::uint64_t work(unsigned seed)
{
    std::map<std::string, std::vector<unsigned>> index;
    std::uint64_t state = seed, sum = 0;
    for (unsigned count = 0; count < 60000; count++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        std::string word = "word " + std::to_string((state >> 33) % 5000) + std::string(state >> 58, 'x');
        index[word].push_back(count);
        if (count % 100 == 0) {
            try {
                throw std::runtime_error(word);
            } catch (const std::exception &error) {
                sum += std::string(error.what()).size();
            }
            auto aligned = std::make_unique<Aligned>();
            sum += reinterpret_cast<std::uintptr_t>(aligned.get()) % 256;
            auto *array = new (std::nothrow) Aligned[3];
            sum += reinterpret_cast<std::uintptr_t>(array) % 256;
            delete[] array;
        }
        if (count % 20000 == 0) {
            index.erase(index.begin(), std::next(index.begin(), index.size() / 2));
        }
    }
    for (const auto &[word, places] : index) {
        sum = sum * 31 + word.size() + places.size() * 7 + places.back();
    }
    return sum;
}

int main()
{
    std::vector<std::uint64_t> sums(8);
    for (int round = 0; round < 3; round++) {
        std::vector<std::thread> threads;
        for (unsigned at = 0; at < sums.size(); at++) {
            threads.emplace_back([at, &sums] { sums[at] += work(at); });
        }
        for (auto &thread : threads) {
            thread.join();
        }
    }
    // new asks its handler, and throws when there is none.
    volatile std::size_t most = SIZE_MAX / 4;
    std::set_new_handler([] {
        handled++;
        std::set_new_handler(nullptr);
    });
    try {
        ::operator delete(::operator new(most));
        return 1;
    } catch (const std::bad_alloc &) {
    }
    if (handled != 1 || ::operator new(most, std::nothrow) || ::operator new(most, std::align_val_t(64), std::nothrow)) {
        return 2;
    }
    std::uint64_t sum = 0;
    for (auto part : sums) {
        sum = sum * 131 + part;
    }
    std::printf("%llx\n", static_cast<unsigned long long>(sum));
    return 0;
}
