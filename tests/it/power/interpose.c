/*
 * Stands between a program and its disk: records what it does to the files below one folder, and lets calls fail.
 *
 * Loaded by LD_PRELOAD. The environment says what to do:
 *   INTERPOSE_ROOT   the folder, absolute and without symbolic links
 *   INTERPOSE_LOG    where the record is appended
 *   INTERPOSE_FAULT  OP[@PART]:N:WHAT[:ever][,...]: from the N-th call of OP on files below the folder whose path contains
 *                    PART, once or for ever, WHAT happens: EIO, ENOSPC, EMFILE, EACCES, KILL (before the call)
 *                    OP: open write truncate sync read name (rename, unlink, mkdir), any
 *                    PART+PLACE: only reads of that byte of the file
 *   INTERPOSE_ARMED  where it is set, nothing fails and is counted but while this file is there
 *
 * One lock is held over each call and its record, so that the record is in the order of what happened. Each record is
 *   kind u8, place u64, extent u64, length u32, length u32, bytes, bytes     (in the machine's byte order)
 * sync_file_range is passed over on purpose: it makes nothing durable.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_INODES = 1 << 16, MAX_FAULTS = 64, MAX_PATH = 3 * PATH_MAX };

struct fault {
    char op[16], part[128];
    long from, place;
    int what, ever;
    long seen;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], armed[PATH_MAX];
/* What is being read. */
static __thread long reads_from = -1, reads_to = -1;
static size_t root_length;
static int log_fd = -1;
/* The inodes below the folder; 0 is an empty place. */
static uint64_t inodes[MAX_INODES];
static struct fault faults[MAX_FAULTS];
static int fault_count;

static void give_up(const char *why) {
    dprintf(2, "interpose: %s: %s\n", why, strerror(errno));
    syscall(SYS_exit_group, 99);
}

static void record(char kind, uint64_t place, uint64_t extent, const void *a, uint32_t a_length, const void *b,
                   uint32_t b_length) {
    char head[25];
    head[0] = kind;
    memcpy(head + 1, &place, 8);
    memcpy(head + 9, &extent, 8);
    memcpy(head + 17, &a_length, 4);
    memcpy(head + 21, &b_length, 4);
    struct iovec parts[3] = {{head, 25}, {(void *)a, a_length}, {(void *)b, b_length}};
    int saved = errno;
    long wanted = 25L + a_length + b_length;
    if (syscall(SYS_writev, log_fd, parts, 3) != wanted) give_up("the record cannot be written");
    errno = saved;
}

static size_t slot(uint64_t inode) {
    size_t at = (inode * 0x9E3779B97F4A7C15ULL) >> 48;
    for (int tried = 0; inodes[at] && inodes[at] != inode; at = (at + 1) % MAX_INODES)
        if (++tried == MAX_INODES) give_up("too many files");
    return at;
}

static void learn(uint64_t inode) { inodes[slot(inode)] = inode; }

/* Forgetting leaves a place that matches nothing, so that those behind it are still found. */
static void forget(uint64_t inode) {
    size_t at = slot(inode);
    if (inodes[at]) inodes[at] = UINT64_MAX;
}

/* The inode of a file or folder below the root, or 0. */
static uint64_t ours(int fd) {
    struct stat status;
    int saved = errno;
    uint64_t inode = 0;
    if (log_fd >= 0 && fd >= 0 && fstat(fd, &status) == 0 && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) {
        size_t at = slot(status.st_ino);
        inode = inodes[at] == status.st_ino ? status.st_ino : 0;
    }
    errno = saved;
    return inode;
}

/* The absolute path of `path` at `dirfd` without the symbolic links of its folder; whether it is below the root. */
static int below(int dirfd, const char *path, char *out) {
    char joined[MAX_PATH], folder[PATH_MAX];
    int saved = errno;
    if (log_fd < 0) return 0;
    if (path[0] == '/') {
        snprintf(joined, sizeof joined, "%s", path);
    } else {
        char link[64];
        if (dirfd == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t length = readlink(link, folder, sizeof folder - 1);
        if (length < 0) length = 0;
        folder[length] = 0;
        snprintf(joined, sizeof joined, "%s/%s", folder, path);
    }
    size_t length = strlen(joined);
    while (length > 1 && joined[length - 1] == '/') joined[--length] = 0;
    char *name = strrchr(joined, '/');
    memcpy(out, joined, length + 1);
    if (name && name != joined) {
        *name = 0;
        if (realpath(joined, folder)) snprintf(out, MAX_PATH, "%s/%s", folder, name + 1);
    }
    errno = saved;
    return strncmp(out, root, root_length) == 0 && (out[root_length] == '/' || out[root_length] == 0);
}

static uint64_t inode_at(const char *path, int *folder) {
    struct stat status;
    int saved = errno;
    int found = lstat(path, &status) == 0;
    errno = saved;
    if (folder) *folder = found && S_ISDIR(status.st_mode);
    return found ? status.st_ino : 0;
}

static int hit(struct fault *one, const char *op, const char *path) {
    if (strcmp(one->op, "any") != 0 && strcmp(one->op, op) != 0) return 0;
    if (!strstr(path, one->part)) return 0;
    if (one->place >= 0 && (one->place < reads_from || one->place >= reads_to)) return 0;
    if (armed[0] && syscall(SYS_faccessat, AT_FDCWD, armed, F_OK) != 0) return 0;
    one->seen++;
    return one->ever ? one->seen >= one->from : one->seen == one->from;
}

/* Whether the call is to fail: sets errno and records it. The lock is held. */
static int fails(const char *op, const char *path, uint64_t inode) {
    for (int at = 0; at < fault_count; at++) {
        if (!hit(&faults[at], op, path)) continue;
        /* A kill is not a call that failed: the cache of the system outlives the process. */
        if (faults[at].what == -1) syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        record('!', inode, 0, op, strlen(op), path, strlen(path));
        errno = faults[at].what;
        return 1;
    }
    return 0;
}

static int fails_fd(const char *op, int fd, uint64_t inode) {
    char link[64], path[PATH_MAX];
    if (!fault_count) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return fails(op, path, inode);
}

static void read_faults(const char *text) {
    char copy[1024];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *rest = copy, *word; (word = strsep(&rest, ",")) && fault_count < MAX_FAULTS;) {
        if (!*word) continue;
        struct fault *one = &faults[fault_count++];
        char *where = strsep(&word, ":"), *from = strsep(&word, ":"), *what = strsep(&word, ":");
        if (!where || !from || !what) {
            errno = EINVAL;
            give_up("INTERPOSE_FAULT");
        }
        char *op = strsep(&where, "@");
        char *part = where ? strsep(&where, "+") : NULL;
        one->place = where ? atol(where) : -1;
        where = part;
        snprintf(one->op, sizeof one->op, "%s", op);
        snprintf(one->part, sizeof one->part, "%s", where ? where : "");
        one->from = atol(from);
        one->what = strcmp(what, "KILL") == 0 ? -1 : strcmp(what, "ENOSPC") == 0 ? ENOSPC : strcmp(what, "EMFILE") == 0 ? EMFILE : strcmp(what, "EACCES") == 0 ? EACCES : EIO;
        one->ever = word && strcmp(word, "ever") == 0;
    }
}

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("INTERPOSE_ROOT"), *log = getenv("INTERPOSE_LOG"), *text = getenv("INTERPOSE_FAULT");
    if (getenv("INTERPOSE_ARMED")) snprintf(armed, sizeof armed, "%s", getenv("INTERPOSE_ARMED"));
    if (!folder || !log) return;
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    /* Far from the numbers that a program counts on, and not for its children. */
    log_fd = fd < 0 ? -1 : (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900);
    if (log_fd < 0) give_up("INTERPOSE_LOG cannot be opened");
    syscall(SYS_close, fd);
    uint64_t inode = inode_at(root, NULL);
    learn(inode);
    record('P', inode, 0, root, root_length, "", 0);
    if (text) read_faults(text);
    unsetenv("LD_PRELOAD");
    unsetenv("INTERPOSE_ROOT");
}

static int open_at(int dirfd, const char *path, int flags, mode_t mode) {
    char whole[MAX_PATH];
    if (!below(dirfd, path, whole)) return syscall(SYS_openat, dirfd, path, flags, mode);
    pthread_mutex_lock(&lock);
    uint64_t before = inode_at(whole, NULL);
    int fd = -1;
    if (!fails("open", whole, before)) {
        fd = syscall(SYS_openat, dirfd, path, flags, mode);
        struct stat status;
        int saved = errno;
        if (fd >= 0 && fstat(fd, &status) == 0) {
            learn(status.st_ino);
            if (!before && S_ISREG(status.st_mode)) record('c', status.st_ino, 0, whole, strlen(whole), "", 0);
            else if ((flags & O_TRUNC) && S_ISREG(status.st_mode)) record('t', status.st_ino, 0, "", 0, "", 0);
        }
        errno = saved;
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

static mode_t mode_of(int flags, va_list rest) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                   \
    int name(const char *path, int flags, ...) {     \
        va_list rest;                                \
        va_start(rest, flags);                       \
        mode_t mode = mode_of(flags, rest);          \
        va_end(rest);                                \
        return open_at(AT_FDCWD, path, flags, mode); \
    }
#define OPENAT(name)                                        \
    int name(int dirfd, const char *path, int flags, ...) { \
        va_list rest;                                       \
        va_start(rest, flags);                              \
        mode_t mode = mode_of(flags, rest);                 \
        va_end(rest);                                       \
        return open_at(dirfd, path, flags, mode);           \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* 'u' where the socket is a producer's, 'i' where it leads to a host, 0 for anything else. */
static char stream(int fd) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int type = 0, saved = errno;
    socklen_t size = sizeof type;
    char kind = 0;
    if (log_fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM &&
        getsockname(fd, (struct sockaddr *)&address, &length) == 0)
        kind = address.ss_family == AF_UNIX ? 'u' : address.ss_family == AF_INET ? 'i' : 0;
    errno = saved;
    return kind;
}

/* Records the bytes that went out, or came in. */
static void record_parts(char kind, int fd, const struct iovec *parts, int count, ssize_t done) {
    for (int at = 0; at < count && done > 0; at++) {
        size_t length = parts[at].iov_len < (size_t)done ? parts[at].iov_len : (size_t)done;
        record(kind, fd, 0, parts[at].iov_base, length, "", 0);
        done -= length;
    }
}

static ssize_t write_parts(int fd, const struct iovec *parts, int count, int positioned, off_t offset) {
    uint64_t inode = ours(fd);
    char kind = inode || positioned ? 0 : stream(fd);
    if (!inode && kind != 'u')
        return positioned ? syscall(SYS_pwritev, fd, parts, count, offset, 0) : syscall(SYS_writev, fd, parts, count);
    pthread_mutex_lock(&lock);
    ssize_t done = -1;
    if (!inode) {
        done = syscall(SYS_writev, fd, parts, count);
        record_parts('R', fd, parts, count, done);
    } else if (!fails_fd("write", fd, inode)) {
        if (!positioned) offset = lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
        done = positioned ? syscall(SYS_pwritev, fd, parts, count, offset, 0) : syscall(SYS_writev, fd, parts, count);
        ssize_t left = done;
        for (int at = 0; at < count && left > 0; at++) {
            size_t length = parts[at].iov_len < (size_t)left ? parts[at].iov_len : (size_t)left;
            record('w', inode, offset, parts[at].iov_base, length, "", 0);
            offset += length;
            left -= length;
        }
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *data, size_t length) {
    struct iovec part = {(void *)data, length};
    return write_parts(fd, &part, 1, 0, 0);
}
ssize_t writev(int fd, const struct iovec *parts, int count) { return write_parts(fd, parts, count, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    struct iovec part = {(void *)data, length};
    return write_parts(fd, &part, 1, 1, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return pwrite(fd, data, length, offset); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return write_parts(fd, parts, count, 1, offset);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return write_parts(fd, parts, count, 1, offset);
}

static ssize_t send_parts(int fd, const struct msghdr *message, int flags) {
    if (stream(fd) != 'u') return syscall(SYS_sendmsg, fd, message, flags);
    pthread_mutex_lock(&lock);
    ssize_t done = syscall(SYS_sendmsg, fd, message, flags);
    record_parts('R', fd, message->msg_iov, message->msg_iovlen, done);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) { return send_parts(fd, message, flags); }
ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t to_length) {
    struct iovec part = {(void *)data, length};
    struct msghdr message = {(void *)to, to_length, &part, 1, NULL, 0, 0};
    return send_parts(fd, &message, flags);
}
ssize_t send(int fd, const void *data, size_t length, int flags) { return sendto(fd, data, length, flags, NULL, 0); }

/* A new connection of a producer begins anew on its number. */
int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    int made = syscall(SYS_accept4, fd, address, length, flags);
    if (made >= 0 && log_fd >= 0) {
        pthread_mutex_lock(&lock);
        record('A', made, 0, "", 0, "", 0);
        pthread_mutex_unlock(&lock);
    }
    return made;
}
int accept(int fd, struct sockaddr *address, socklen_t *length) { return accept4(fd, address, length, 0); }

/* What came in is recorded before the program sees it. */
static ssize_t came(int fd, const struct iovec *parts, int count, ssize_t done) {
    if (done > 0 && stream(fd) == 'i') {
        pthread_mutex_lock(&lock);
        record_parts('I', fd, parts, count, done);
        pthread_mutex_unlock(&lock);
    }
    return done;
}
static int read_fails(int fd) {
    uint64_t inode = fault_count ? ours(fd) : 0;
    if (!inode) return 0;
    pthread_mutex_lock(&lock);
    int failed = fails_fd("read", fd, inode);
    pthread_mutex_unlock(&lock);
    return failed;
}
ssize_t read(int fd, void *data, size_t length) {
    struct iovec part = {data, length};
    return read_fails(fd) ? -1 : came(fd, &part, 1, syscall(SYS_read, fd, data, length));
}
ssize_t readv(int fd, const struct iovec *parts, int count) {
    return read_fails(fd) ? -1 : came(fd, parts, count, syscall(SYS_readv, fd, parts, count));
}
ssize_t recvfrom(int fd, void *data, size_t length, int flags, struct sockaddr *from, socklen_t *from_length) {
    struct iovec part = {data, length};
    return came(fd, &part, 1, syscall(SYS_recvfrom, fd, data, length, flags, from, from_length));
}
ssize_t recv(int fd, void *data, size_t length, int flags) { return recvfrom(fd, data, length, flags, NULL, NULL); }
ssize_t pread(int fd, void *data, size_t length, off_t offset) {
    reads_from = offset, reads_to = offset + (long)length;
    int failed = read_fails(fd);
    reads_from = reads_to = -1;
    return failed ? -1 : syscall(SYS_pread64, fd, data, length, offset);
}
ssize_t pread64(int fd, void *data, size_t length, off64_t offset) { return pread(fd, data, length, offset); }

static int sync_fd(int fd, long call, char kind) {
    uint64_t inode = ours(fd);
    if (!inode) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (!fails_fd("sync", fd, inode)) {
        done = syscall(call, fd);
        if (done == 0) record(kind, inode, 0, "", 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return sync_fd(fd, SYS_fsync, 's'); }
int fdatasync(int fd) { return sync_fd(fd, SYS_fdatasync, 'd'); }

int ftruncate(int fd, off_t length) {
    uint64_t inode = ours(fd);
    if (!inode) return syscall(SYS_ftruncate, fd, length);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (!fails_fd("truncate", fd, inode)) {
        done = syscall(SYS_ftruncate, fd, length);
        if (done == 0) record('t', inode, length, "", 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

int fallocate(int fd, int mode, off_t offset, off_t length) {
    uint64_t inode = ours(fd);
    if (!inode) return syscall(SYS_fallocate, fd, mode, offset, length);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (!fails_fd("truncate", fd, inode)) {
        done = syscall(SYS_fallocate, fd, mode, offset, length);
        struct stat status;
        if (done == 0 && fstat(fd, &status) == 0) record('t', inode, status.st_size, "", 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) { return fallocate(fd, 0, offset, length) == 0 ? 0 : errno; }
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
    char whole[MAX_PATH], target[MAX_PATH];
    int ours_from = below(from_fd, from, whole), ours_to = below(to_fd, to, target);
    if (!ours_from && !ours_to) return syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (!fails("name", whole, 0)) {
        uint64_t replaced = inode_at(target, NULL);
        done = syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
        if (done == 0) {
            if (replaced) forget(replaced);
            record('r', inode_at(target, NULL), 0, whole, strlen(whole), target, strlen(target));
        }
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    return renameat2(from_fd, from, to_fd, to, 0);
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int dirfd, const char *path, int flags) {
    char whole[MAX_PATH];
    if (!below(dirfd, path, whole)) return syscall(SYS_unlinkat, dirfd, path, flags);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (!fails("name", whole, 0)) {
        uint64_t inode = inode_at(whole, NULL);
        done = syscall(SYS_unlinkat, dirfd, path, flags);
        if (done == 0) {
            forget(inode);
            record('u', inode, 0, whole, strlen(whole), "", 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    int folder;
    inode_at(path, &folder);
    return unlinkat(AT_FDCWD, path, folder ? AT_REMOVEDIR : 0);
}

int mkdirat(int dirfd, const char *path, mode_t mode) {
    char whole[MAX_PATH];
    if (!below(dirfd, path, whole)) return syscall(SYS_mkdirat, dirfd, path, mode);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (!fails("name", whole, 0)) {
        done = syscall(SYS_mkdirat, dirfd, path, mode);
        if (done == 0) {
            uint64_t inode = inode_at(whole, NULL);
            learn(inode);
            record('m', inode, 0, whole, strlen(whole), "", 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* What nobody does here; a program that begins to would escape the record. */
static int refused(const char *what) {
    if (log_fd >= 0) {
        errno = ENOTSUP;
        give_up(what);
    }
    return -1;
}
int link(const char *from, const char *to) {
    (void)from, (void)to;
    return refused("link");
}
int truncate(const char *path, off_t length) {
    (void)path, (void)length;
    return refused("truncate");
}
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t length, unsigned flags) {
    if (ours(out)) return refused("copy_file_range");
    return syscall(SYS_copy_file_range, in, in_at, out, out_at, length, flags);
}
