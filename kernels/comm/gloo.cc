/* Gloo behind gloo.h: the only C++ of the project, because Gloo has no C interface. Exceptions end
 * here and become a Status.
 */
#include <gloo/allreduce.h>
#include <gloo/broadcast.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
#include "kernels/comm/gloo.h"
#include "kernels/comm/wire.h"
}

namespace {

/* The run's hub in the form in which Gloo asks for it. */
class RunHub : public gloo::rendezvous::Store {
 public:
    RunHub(int fd, int timeout_ms) : fd_(fd), timeout_ms_(timeout_ms) {}

    void set(const std::string &key, const std::vector<char> &data) override
    {
        if (wire_set(fd_, ("gloo/" + key).c_str(), data.data(), data.size()) != OK)
            throw std::runtime_error(status_message());
    }

    std::vector<char> get(const std::string &key) override
    {
        char *value;
        size_t n_bytes;
        if (wire_get(fd_, ("gloo/" + key).c_str(), timeout_ms_, &value, &n_bytes) != OK)
            throw std::runtime_error(status_message());
        std::vector<char> data(value, value + n_bytes);
        free(value);
        return data;
    }

    void wait(const std::vector<std::string> &keys) override
    {
        for (const std::string &key : keys) get(key);
    }

 private:
    int fd_, timeout_ms_;
};

/* What agree reduces: the words of one rank, and whether they were equal so far. */
struct Words {
    uint64_t word[4];
    uint64_t equal;
};

void merge_words(void *out, const void *left, const void *right, size_t n)
{
    const Words *a = static_cast<const Words *>(left), *b = static_cast<const Words *>(right);
    for (size_t i = 0; i < n; i++) {
        Words merged = a[i];
        merged.equal = a[i].equal && b[i].equal;
        for (int k = 0; k < 4; k++) merged.equal &= a[i].word[k] == b[i].word[k];
        static_cast<Words *>(out)[i] = merged;
    }
}

void add_floats(void *out, const void *left, const void *right, size_t n)
{
    const float *a = static_cast<const float *>(left), *b = static_cast<const float *>(right);
    float *sum = static_cast<float *>(out);
    for (size_t i = 0; i < n; i++) sum[i] = a[i] + b[i];
}

template <typename T>
void all_reduce(const std::shared_ptr<gloo::Context> &context, T *data, size_t n,
                gloo::AllreduceOptions::Func merge)
{
    gloo::AllreduceOptions options(context);
    options.setAlgorithm(gloo::detail::AllreduceOptionsImpl::RING);
    options.setOutput(data, n);
    options.setReduceFunction(merge);
    gloo::allreduce(options);
}

template <typename F>
Status guarded(F work)
{
    try {
        work();
        return OK;
    } catch (const std::exception &error) {
        std::string line(error.what());
        for (char &c : line)
            if (c == '\n') c = ' ';
        return status_fail(E_NETWORK, "%.600s", line.c_str());
    }
}

}  // namespace

struct Gloo {
    std::shared_ptr<gloo::rendezvous::Context> context;
    std::shared_ptr<gloo::transport::Device> device;
};

extern "C" Status gloo_open(int rank, int world_size, const char *address, int values_fd,
                            int timeout_ms, Gloo **out)
{
    return guarded([&] {
        std::unique_ptr<Gloo> made(new Gloo);
        gloo::transport::tcp::attr where(address);
        made->device = gloo::transport::tcp::CreateDevice(where);
        made->context = std::make_shared<gloo::rendezvous::Context>(rank, world_size);
        made->context->setTimeout(std::chrono::milliseconds(timeout_ms));
        RunHub hub(values_fd, timeout_ms);
        made->context->connectFullMesh(hub, made->device);
        *out = made.release();
    });
}

extern "C" void gloo_close(Gloo *gloo) { delete gloo; }

extern "C" Status gloo_all_reduce(Gloo *gloo, float *data, int64_t n_elems)
{
    return guarded(
        [&] { all_reduce(gloo->context, data, static_cast<size_t>(n_elems), add_floats); });
}

extern "C" Status gloo_agree(Gloo *gloo, const uint64_t words[4], bool *equal)
{
    /* One piece per rank, as the ring divides the data: no piece is empty. */
    std::vector<Words> pieces(static_cast<size_t>(gloo->context->size));
    for (Words &piece : pieces) {
        for (int k = 0; k < 4; k++) piece.word[k] = words[k];
        piece.equal = 1;
    }
    Status status =
        guarded([&] { all_reduce(gloo->context, pieces.data(), pieces.size(), merge_words); });
    if (status != OK) return status;
    *equal = true;
    for (const Words &piece : pieces) *equal = *equal && piece.equal;
    return OK;
}

extern "C" Status gloo_broadcast(Gloo *gloo, void *data, size_t n_bytes, int root)
{
    return guarded([&] {
        gloo::BroadcastOptions options(gloo->context);
        options.setOutput(static_cast<char *>(data), n_bytes);
        options.setRoot(root);
        gloo::broadcast(options);
    });
}
