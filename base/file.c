/* Files replaced as a whole, read as a whole. See file.h. */
#include "base/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

struct FileWriter {
    const FileOps *ops;
    char *path, *temporary;
    int fd; /* -1 once closed */
};

static ssize_t system_write(void *context, int fd, const void *data, size_t n_bytes)
{
    (void)context;
    return write(fd, data, n_bytes);
}

static int system_fsync(void *context, int fd)
{
    (void)context;
    return fsync(fd);
}

static int system_rename(void *context, const char *from, const char *to)
{
    (void)context;
    return rename(from, to);
}

const FileOps file_ops_system = {NULL, system_write, system_fsync, system_rename};

static Status step_failed(const FileWriter *writer, const char *step)
{
    return status_fail(E_FILE, "%s: %s failed: %s; the file was not changed", writer->path, step,
                       strerror(errno));
}

static void writer_free(FileWriter *writer)
{
    free(writer->path);
    free(writer->temporary);
    free(writer);
}

Status file_writer_open(const FileOps *ops, const char *path, FileWriter **out)
{
    FileWriter *writer = mem_alloc(sizeof *writer);
    size_t temporary_bytes = strlen(path) + sizeof ".tmp";
    writer->ops = ops;
    writer->path = mem_string(path);
    writer->temporary = mem_alloc(temporary_bytes);
    snprintf(writer->temporary, temporary_bytes, "%s.tmp", path);
    writer->fd = open(writer->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (writer->fd < 0) {
        Status status = status_fail(E_FILE, "%s: cannot be created: %s", writer->temporary,
                                    strerror(errno));
        writer_free(writer);
        return status;
    }
    *out = writer;
    return OK;
}

bool file_write_all(const FileOps *ops, int fd, const void *data, size_t n_bytes)
{
    const char *next = data;
    while (n_bytes > 0) {
        ssize_t written = ops->write(ops->context, fd, next, n_bytes);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        next += written;
        n_bytes -= (size_t)written;
    }
    return true;
}

Status file_writer_put(FileWriter *writer, const void *data, size_t n_bytes)
{
    if (file_write_all(writer->ops, writer->fd, data, n_bytes)) return OK;
    return step_failed(writer, "write");
}

void file_writer_discard(FileWriter *writer)
{
    if (!writer) return;
    if (writer->fd >= 0) close(writer->fd);
    unlink(writer->temporary);
    writer_free(writer);
}

static Status sync_folder(const FileWriter *writer)
{
    char *folder = file_folder(writer->path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    Status status = OK;
    /* Some network file systems cannot sync a folder and say EINVAL: there is nothing more to do
     * there. */
    if (fd < 0 || (writer->ops->fsync(writer->ops->context, fd) && errno != EINVAL))
        status = status_fail(E_FILE,
                             "%s: fsync of its folder failed: %s; the file is written, but may "
                             "not survive a power cut",
                             writer->path, strerror(errno));
    if (fd >= 0) close(fd);
    free(folder);
    return status;
}

Status file_writer_commit(FileWriter *writer)
{
    const FileOps *ops = writer->ops;
    Status status = OK;
    if (ops->fsync(ops->context, writer->fd)) status = step_failed(writer, "fsync");
    /* close reports what a network file system could not write earlier */
    if (close(writer->fd) && status == OK) status = step_failed(writer, "close");
    writer->fd = -1;
    if (status == OK && ops->rename(ops->context, writer->temporary, writer->path))
        status = step_failed(writer, "rename");
    if (status != OK) {
        file_writer_discard(writer);
        return status;
    }
    status = sync_folder(writer);
    writer_free(writer);
    return status;
}

Status file_replace(const FileOps *ops, const char *path, const void *data, size_t n_bytes)
{
    FileWriter *writer;
    TRY(file_writer_open(ops, path, &writer));
    Status status = file_writer_put(writer, data, n_bytes);
    if (status == OK) return file_writer_commit(writer);
    file_writer_discard(writer);
    return status;
}

static Status read_stream(FILE *file, const char *path, size_t max_bytes, char **out,
                          size_t *out_bytes)
{
    size_t capacity = 4096, used = 0;
    char *content = mem_alloc(capacity);
    /* Reads to the end instead of trusting a size: pipes have none, and files may grow. */
    for (size_t n; (n = fread(content + used, 1, capacity - used, file)) > 0;) {
        used += n;
        if (used > max_bytes) break;
        if (used < capacity) continue;
        capacity *= 2;
        content = realloc(content, capacity);
        assert(content);
    }
    Status status = OK;
    if (ferror(file))
        status = status_fail(E_FILE, "%s: cannot be read: %s", path, strerror(errno));
    else if (used > max_bytes)
        status = status_fail(E_FORMAT, "%s: larger than the %zu bytes allowed here", path,
                             max_bytes);
    if (status != OK) {
        free(content);
        return status;
    }
    content[used] = '\0'; /* the loop leaves used < capacity */
    *out = content;
    *out_bytes = used;
    return OK;
}

Status file_read(const char *path, size_t max_bytes, char **out, size_t *out_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file) return status_fail(E_FILE, "%s: cannot be opened: %s", path, strerror(errno));
    Status status = read_stream(file, path, max_bytes, out, out_bytes);
    fclose(file);
    return status;
}

static Status make_folder(const char *path)
{
    struct stat info;
    if (mkdir(path, 0777) == 0) return OK;
    int reason = errno;
    if (reason == EEXIST && stat(path, &info) == 0) {
        if (S_ISDIR(info.st_mode)) return OK;
        reason = ENOTDIR;
    }
    return status_fail(E_FILE, "%s: folder cannot be created: %s", path, strerror(reason));
}

Status file_make_folders(const char *path)
{
    char *partial = mem_string(path);
    Status status = OK;
    for (char *slash = strchr(partial + (*partial == '/'), '/'); slash && status == OK;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        status = make_folder(partial);
        *slash = '/';
    }
    if (status == OK) status = make_folder(partial);
    free(partial);
    return status;
}

bool file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

Status file_size(const char *path, int64_t *out_bytes)
{
    struct stat info;
    if (stat(path, &info))
        return status_fail(E_FILE, "%s: cannot be read: %s", path, strerror(errno));
    *out_bytes = info.st_size;
    return OK;
}

char *file_join(const char *folder, const char *name)
{
    if (!*folder || *name == '/') return mem_string(name);
    size_t bytes = strlen(folder) + strlen(name) + 2;
    char *path = mem_alloc(bytes);
    snprintf(path, bytes, "%s/%s", folder, name);
    return path;
}

char *file_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return mem_string(".");
    if (slash == path) return mem_string("/");
    char *folder = mem_string(path);
    folder[slash - path] = '\0';
    return folder;
}
