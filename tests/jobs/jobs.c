/*
 * An application with asynchronous jobs (ASYNC_start_job(3)) on one thread, as an event loop has them.
 *
 *   jobs SCENE KEY PUBLIC OPERATION COUNT
 *
 * SCENE is what happens to the jobs; KEY a key file, or engine: and an id; PUBLIC the public key's file; OPERATION is pkcs1, pss or ec
 * (signatures, which are verified), decrypt or derive. It prints words and numbers.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <openssl/async.h>
#include <openssl/conf.h>
#include <openssl/crypto.h>
#if OPENSSL_VERSION_NUMBER < 0x40000000L
#include <openssl/engine.h>
#endif
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 512
static const unsigned char text[] = "what is signed";

struct work {
    EVP_MD_CTX *md;
    EVP_PKEY_CTX *context;
    EVP_PKEY *peer;
    unsigned char input[1024], output[1024];
    size_t input_length, length;
    int ok;
    ASYNC_JOB *job;
    ASYNC_WAIT_CTX *waiting;
    int state, pauses;
};

static EVP_PKEY *key, *public;
static const char *operation;
static int blocked, twice;
static size_t depth;

static void die(const char *what) {
    fprintf(stderr, "%s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static EVP_PKEY *load(const char *path, int private) {
#if OPENSSL_VERSION_NUMBER < 0x40000000L
    if (strncmp(path, "engine:", 7) == 0) {
        ENGINE *engine = ENGINE_by_id("hsmkey");
        EVP_PKEY *of_engine = ENGINE_init(engine) == 1 ? ENGINE_load_private_key(engine, path + 7, NULL, NULL) : NULL;
        if (of_engine == NULL) die(path);
        return of_engine;
    }
#endif
    FILE *file = fopen(path, "r");
    if (file == NULL) die(path);
    EVP_PKEY *loaded = private ? PEM_read_PrivateKey(file, NULL, NULL, NULL) : PEM_read_PUBKEY(file, NULL, NULL, NULL);
    if (loaded == NULL) die(path);
    fclose(file);
    return loaded;
}

/* How much of a job's stack is used: it is painted, and looked at afterwards. */
#define PAINTED (27 * 1024)

static __attribute__((noinline)) size_t stack(int paint) {
    volatile unsigned char area[PAINTED];
    size_t i = 0;
    if (paint) {
        for (i = 0; i < PAINTED; i++) area[i] = 0xa5;
        return 0;
    }
    /* What was painted before is read on purpose. */
    __asm__ volatile("" : : "r"(area) : "memory");
    while (i < PAINTED && area[i] == 0xa5) i++;
    return PAINTED - i;
}

static int run(void *argument) {
    struct work *work = *(struct work **)argument;
    if (blocked) ASYNC_block_pause();
    int measured = getenv("MEASURE") != NULL;
    if (measured) stack(1);
    work->length = sizeof(work->output);
    if (strcmp(operation, "decrypt") == 0)
        work->ok = EVP_PKEY_decrypt(work->context, work->output, &work->length, work->input, work->input_length) == 1;
    else if (strcmp(operation, "derive") == 0)
        work->ok = EVP_PKEY_derive(work->context, work->output, &work->length) == 1;
    else
        work->ok = EVP_DigestSign(work->md, work->output, &work->length, text, sizeof(text)) == 1;
    if (measured) {
        size_t used = stack(0);
        if (used > depth) depth = used;
    }
    if (!work->ok) ERR_print_errors_fp(stderr);
    if (blocked) ASYNC_unblock_pause();
    if (twice) ASYNC_pause_job();
    return 1;
}

static int padding(EVP_PKEY_CTX *context) {
    if (strcmp(operation, "pss") != 0) return 1;
    return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PSS_PADDING) == 1;
}

static struct work *begin(void) {
    struct work *work = calloc(1, sizeof(*work));
    EVP_PKEY_CTX *context;
    if (strcmp(operation, "decrypt") == 0) {
        EVP_PKEY_CTX *encrypting = EVP_PKEY_CTX_new(public, NULL);
        work->input_length = sizeof(work->input);
        if (EVP_PKEY_encrypt_init(encrypting) != 1
            || EVP_PKEY_encrypt(encrypting, work->input, &work->input_length, text, sizeof(text)) != 1)
            die("encrypting");
        EVP_PKEY_CTX_free(encrypting);
        work->context = EVP_PKEY_CTX_new(key, NULL);
        if (EVP_PKEY_decrypt_init(work->context) != 1) die("decrypt_init");
    } else if (strcmp(operation, "derive") == 0) {
        EVP_PKEY_CTX *making = EVP_PKEY_CTX_new(public, NULL);
        work->context = EVP_PKEY_CTX_new(key, NULL);
        if (EVP_PKEY_keygen_init(making) != 1 || EVP_PKEY_keygen(making, &work->peer) != 1) die("keygen");
        EVP_PKEY_CTX_free(making);
        unsigned char *der = NULL;
        int length = i2d_PUBKEY(work->peer, &der);
        const unsigned char *next = der;
        EVP_PKEY *half = d2i_PUBKEY(NULL, &next, length);
        if (EVP_PKEY_derive_init(work->context) != 1 || EVP_PKEY_derive_set_peer(work->context, half) != 1)
            die("derive_init");
        EVP_PKEY_free(half);
        OPENSSL_free(der);
    } else {
        work->md = EVP_MD_CTX_new();
        if (EVP_DigestSignInit(work->md, &context, EVP_sha256(), NULL, key) != 1 || !padding(context)) die("init");
    }
    work->waiting = ASYNC_WAIT_CTX_new();
    return work;
}

/* Starts or resumes; whether it has ended. */
static int go_on(struct work *work) {
    int result;
    work->state = ASYNC_start_job(&work->job, work->waiting, &result, run, &work, sizeof(work));
    if (work->state == ASYNC_PAUSE) {
        work->pauses++;
        return 0;
    }
    if (work->state != ASYNC_FINISH) die("ASYNC_start_job");
    return 1;
}

static int is_right(struct work *work) {
    EVP_PKEY_CTX *context;
    if (!work->ok) return 0;
    if (work->peer != NULL) {
        unsigned char secret[256];
        size_t length = sizeof(secret);
        EVP_PKEY_CTX *other = EVP_PKEY_CTX_new(work->peer, NULL);
        int same = EVP_PKEY_derive_init(other) == 1 && EVP_PKEY_derive_set_peer(other, public) == 1
            && EVP_PKEY_derive(other, secret, &length) == 1 && length == work->length
            && memcmp(secret, work->output, length) == 0;
        EVP_PKEY_CTX_free(other);
        return same;
    }
    if (work->context != NULL) return work->length == sizeof(text) && memcmp(work->output, text, sizeof(text)) == 0;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int right = EVP_DigestVerifyInit(md, &context, EVP_sha256(), NULL, public) == 1 && padding(context)
        && EVP_DigestVerify(md, work->output, work->length, text, sizeof(text)) == 1;
    EVP_MD_CTX_free(md);
    return right;
}

static void end(struct work *work) {
    ASYNC_WAIT_CTX_free(work->waiting);
    EVP_MD_CTX_free(work->md);
    EVP_PKEY_CTX_free(work->context);
    EVP_PKEY_free(work->peer);
    free(work);
}

/* The event that a paused job waits for. */
static struct pollfd event(struct work *work) {
    OSSL_ASYNC_FD fd;
    size_t count = 0;
    if (ASYNC_WAIT_CTX_get_all_fds(work->waiting, NULL, &count) != 1 || count != 1) die("not one descriptor");
    ASYNC_WAIT_CTX_get_all_fds(work->waiting, &fd, &count);
    /* Programs set the flags of what they poll, without a look at those that are set. */
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return (struct pollfd){.fd = fd, .events = POLLIN};
}

/* Waits for the events of those that are paused: on a busy machine a job may be done before it has to pause. How many there are. */
static int signalled(struct work **works, int count) {
    int paused = 0;
    for (int i = 0; i < count; i++) {
        if (works[i]->state != ASYNC_PAUSE) continue;
        struct pollfd ready = event(works[i]);
        if (poll(&ready, 1, 20000) != 1) die("no event");
        paused++;
    }
    return paused;
}

/* An event loop until all have ended; how many results are right. */
static int finish(struct work **works, int count) {
    int right = 0, left = 0;
    for (int i = 0; i < count; i++) left += works[i]->state == ASYNC_PAUSE;
    while (left > 0) {
        struct pollfd events[MOST];
        for (int i = 0; i < count; i++) {
            events[i] = works[i]->state == ASYNC_PAUSE ? event(works[i]) : (struct pollfd){.fd = -1};
        }
        if (poll(events, count, 20000) <= 0) die("no event");
        for (int i = 0; i < count; i++) {
            if (events[i].fd >= 0 && events[i].revents != 0) left -= go_on(works[i]);
        }
    }
    for (int i = 0; i < count; i++) right += is_right(works[i]);
    return right;
}

/* Open descriptors that are events: the token has files of its own. */
static int descriptors(void) {
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char path[300], name[64] = "";
        snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
        if (readlink(path, name, sizeof(name) - 1) > 0) count += strstr(name, "eventfd") != NULL;
    }
    closedir(directory);
    return count;
}

/* Those that stay open: one is closed when the worker has nothing more to say. */
static int left_open(void) {
    for (int i = 0; i < 1000 && descriptors() > 0; i++) usleep(10000);
    return descriptors();
}

static int threads(void) {
    int count = 0;
    DIR *directory = opendir("/proc/self/task");
    while (readdir(directory) != NULL) count++;
    closedir(directory);
    return count - 2;
}

static void start(struct work **works, int count) {
    for (int i = 0; i < count; i++) {
        works[i] = begin();
        go_on(works[i]);
    }
}

/* A round of jobs, one after the other started and then all waited for. */
static int round_of(int count) {
    struct work *works[MOST];
    start(works, count);
    int right = finish(works, count);
    for (int i = 0; i < count; i++) end(works[i]);
    return right;
}

/*
 * A fork while jobs are paused: with their events signalled or not, and then the child goes first, or the parent. The child resumes the
 * jobs when it is told to, or drops them, and has jobs of its own afterwards.
 */
enum { SIGNALLED = 1, CHILD_FIRST = 2, DROPPED = 4, WAYS = 8 };

static void child(struct work **works, int count, int way, int go) {
    char none;
    alarm(30);
    int alone = threads() == 1, own = count;
    if (!(way & CHILD_FIRST) && read(go, &none, 1) != 0) _exit(2);
    if (!(way & DROPPED)) own = finish(works, count);
    for (int i = 0; i < count; i++) end(works[i]);
    int left = descriptors();
    int fine = alone && own == count && left == 0;
    int again = fine ? round_of(count) : 0, many = threads(), later = left_open();
    if (fine && again == count && many > 1 && later == 0) _exit(0);
    fprintf(stderr, "child of way %d: alone %d right %d left %d", way, alone, own, left);
    fprintf(stderr, ", then right %d threads %d left %d\n", again, many, later);
    ERR_print_errors_fp(stderr);
    _exit(3);
}

static int forked(int way, int count, int *failed) {
    struct work *works[MOST];
    int go[2], status;
    start(works, count);
    if (way & SIGNALLED) signalled(works, count);
    fflush(stdout);
    if (pipe(go) != 0) die("pipe");
    pid_t pid = fork();
    if (pid == 0) {
        close(go[1]);
        child(works, count, way, go[0]);
    }
    close(go[0]);
    if (way & CHILD_FIRST) waitpid(pid, &status, 0);
    int right = finish(works, count);
    for (int i = 0; i < count; i++) end(works[i]);
    close(go[1]);
    if (!(way & CHILD_FIRST)) waitpid(pid, &status, 0);
    if (status != 0) {
        fprintf(stderr, "way %d: status %d\n", way, status);
        ++*failed;
    }
    return right;
}

/*
 * Daemons close all descriptors, and their numbers become somebody else's: a socket's, a log's or another event's. Nothing is read from
 * these, written to them or closed: by the process that closed ours, or by a child of it.
 */
enum { SOCKET, LOG, EVENT, KINDS };
enum { ITSELF, CHILD, GRANDCHILD, PROCESSES };
static const char pending[] = "eight octets or more";

struct other {
    int number, peer;
    struct stat as;
};

static struct other take_over(int number, int kind) {
    struct other other = {.number = number, .peer = -1};
    int ends[2];
    close(number);
    if (kind == SOCKET) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0 || write(ends[1], pending, sizeof(pending)) < 0) die("socketpair");
        other.peer = fcntl(ends[1], F_DUPFD_CLOEXEC, 500);
        close(ends[1]);
    } else if (kind == LOG) {
        ends[0] = memfd_create("log", 0);
        if (write(ends[0], pending, sizeof(pending)) < 0) die("log");
        lseek(ends[0], 0, SEEK_SET);
    } else {
        ends[0] = eventfd(5, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    if (ends[0] != number && (dup2(ends[0], number) != number || close(ends[0]) != 0)) die("dup2");
    fstat(number, &other.as);
    return other;
}

static int is_untouched(const struct other *other, int kind) {
    struct stat as;
    char read_back[64];
    uint64_t number;
    if (fstat(other->number, &as) != 0 || as.st_dev != other->as.st_dev || as.st_ino != other->as.st_ino) return 0;
    if (kind == EVENT) return read(other->number, &number, sizeof(number)) == sizeof(number) && number == 5;
    if (read(other->number, read_back, sizeof(read_back)) != sizeof(pending) || memcmp(read_back, pending, sizeof(pending)) != 0)
        return 0;
    return kind == LOG || recv(other->peer, read_back, 1, MSG_DONTWAIT) < 0;
}

/* Their descriptors are gone: they are looked at now and then. */
static int finish_blindly(struct work **works, int count) {
    int right = 0;
    for (int i = 0; i < count; i++) {
        while (works[i]->state == ASYNC_PAUSE && !go_on(works[i])) usleep(1000);
        right += is_right(works[i]);
    }
    return right;
}

static int reused(int kind, int process, int count) {
    struct work *works[MOST], *next[MOST];
    struct other others[MOST];
    start(works, count);
    if (signalled(works, count) != count) die("not paused");
    fflush(stdout);
    int status;
    pid_t pid = process == ITSELF ? 0 : fork();
    if (pid == 0) {
        alarm(20);
        for (int i = 0; i < count; i++) others[i] = take_over(event(works[i]).fd, kind);
        if (process == GRANDCHILD && (pid = fork()) != 0) _exit(waitpid(pid, &status, 0) == pid ? WEXITSTATUS(status) : 1);
        int right = finish_blindly(works, count), untouched = 0;
        for (int i = 0; i < count; i++) {
            next[i] = begin();
            ASYNC_WAIT_CTX_free(next[i]->waiting);
            next[i]->waiting = works[i]->waiting;
            go_on(next[i]);
        }
        right += finish_blindly(next, count);
        for (int i = 0; i < count; i++) {
            works[i]->waiting = NULL;
            end(works[i]);
            end(next[i]);
        }
        for (int i = 0; i < count; i++) untouched += is_untouched(&others[i], kind);
        for (int i = 0; i < count; i++) close(others[i].number), close(others[i].peer);
        if (right != 2 * count || untouched != count)
            fprintf(stderr, "kind %d process %d: right %d untouched %d\n", kind, process, right, untouched);
        if (process == ITSELF) return right == 2 * count && untouched == count;
        _exit(right == 2 * count && untouched == count ? 0 : 3);
    }
    if (finish(works, count) != count) die("parent");
    for (int i = 0; i < count; i++) end(works[i]);
    return waitpid(pid, &status, 0) == pid && status == 0;
}

/*
 * A child that is given no event in place of its parent's, as it may have no descriptor more. The numbers become somebody else's, who has
 * nothing to say. How many of COUNT new jobs of the same wait contexts pause there.
 */
static int exhausted(int count, int *right) {
    struct work *works[MOST], *next;
    struct rlimit before, none;
    int paused = 0, status, lowest = MOST, out[2], said[2] = {0, 0};
    start(works, count);
    if (signalled(works, count) != count || pipe(out) != 0) die("not paused");
    for (int i = 0; i < count; i++)
        if (event(works[i]).fd < lowest) lowest = event(works[i]).fd;
    getrlimit(RLIMIT_NOFILE, &before);
    none = before;
    none.rlim_cur = lowest;
    setrlimit(RLIMIT_NOFILE, &none);
    int first = dup(0), last = first;
    for (int fd = first; fd >= 0; fd = dup(0)) last = fd;
    pid_t pid = fork();
    setrlimit(RLIMIT_NOFILE, &before);
    if (pid == 0) {
        alarm(20);
        said[0] = finish_blindly(works, count);
        for (int i = 0; i < count; i++) {
            int number = event(works[i]).fd;
            take_over(number, EVENT);
            next = begin();
            ASYNC_WAIT_CTX_free(next->waiting);
            next->waiting = works[i]->waiting;
            works[i]->waiting = NULL;
            if (!go_on(next)) said[1]++;
            said[0] += finish_blindly(&next, 1);
            end(works[i]), end(next);
        }
        _exit(write(out[1], said, sizeof(said)) != sizeof(said));
    }
    for (int fd = first; first >= 0 && fd <= last; fd++) close(fd);
    *right = finish(works, count);
    for (int i = 0; i < count; i++) end(works[i]);
    if (waitpid(pid, &status, 0) != pid || status != 0 || read(out[0], said, sizeof(said)) != sizeof(said)) die("child");
    *right += said[0];
    paused = said[1];
    return paused;
}

/* A job that loads a key. */
static int load_in_a_job(void *argument) {
    stack(1);
    EVP_PKEY *loaded = load(*(const char **)argument, 1);
    depth = stack(0);
    int right = EVP_PKEY_cmp(loaded, key) == 1;
    EVP_PKEY_free(loaded);
    return right;
}

#if OPENSSL_VERSION_NUMBER >= 0x30000000L
/* A job of a library context that goes while the HSM works. The worker comes back after it, or meets it on its way. */
static void late(const char *path, int microseconds) {
    OSSL_LIB_CTX *own = OSSL_LIB_CTX_new();
    struct work *work = calloc(1, sizeof(*work));
    if (OSSL_LIB_CTX_load_config(own, getenv("OPENSSL_CONF")) != 1) die("configuration");
    FILE *file = fopen(path, "r");
    EVP_PKEY *of_context = PEM_read_PrivateKey_ex(file, NULL, NULL, NULL, own, NULL);
    fclose(file);
    work->md = EVP_MD_CTX_new();
    if (of_context == NULL || EVP_DigestSignInit_ex(work->md, NULL, "SHA256", own, NULL, of_context, NULL) != 1) die("init");
    EVP_PKEY_free(of_context);
    work->waiting = ASYNC_WAIT_CTX_new();
    if (go_on(work)) die("not paused");
    usleep(microseconds);
    end(work);
    OSSL_LIB_CTX_free(own);
}
#endif

static void *resume(void *argument) {
    struct work *work = argument;
    if (work->length != sizeof(work->output)) return NULL;
    struct pollfd ready = event(work);
    do poll(&ready, 1, 20000);
    while (!go_on(work) && work->length == sizeof(work->output));
    return NULL;
}

static void caught(int number) {
    (void)number;
    if (gettid() != getpid()) _exit(3);
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    const char *scene = argv[1];
    int count = atoi(argv[5]);
    struct work *works[MOST];
    operation = argv[4];
    if (OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG | OPENSSL_INIT_ADD_ALL_CIPHERS, NULL) != 1) die("configuration");
    key = load(argv[2], 1);
    public = load(argv[3], 0);

    if (strcmp(scene, "many") == 0) {
        /* The first pays for the login and the threads; a round has one job for each thread. */
        int right = round_of(count);
        long begun = now();
        right += round_of(count);
        long time = now() - begun;
        printf("ms %ld right %d descriptors %d threads %d depth %zu\n", time, right, left_open(), threads(), depth);
    } else if (strcmp(scene, "dropped") == 0) {
        round_of(1);
        /* The second half is dropped when it is done and nobody knows. */
        for (int half = 0; half < 2; half++) {
            int paused = 0;
            start(works, count);
            for (int i = 0; i < count; i++) paused += works[i]->state == ASYNC_PAUSE;
            if (paused == 0) die("not paused");
            if (half == 1) signalled(works, count);
            for (int i = 0; i < count; i++) end(works[i]);
        }
        int open = left_open();
        printf("descriptors %d right %d\n", open, round_of(count));
    } else if (strcmp(scene, "exit") == 0) {
        round_of(1);
        start(works, count);
        return 0;
    } else if (strcmp(scene, "early") == 0) {
        int resumed = 0;
        start(works, count);
        for (int i = 0; i < count; i++) {
            while (works[i]->state == ASYNC_PAUSE && !go_on(works[i])) resumed++;
        }
        printf("early %d right %d\n", resumed > count, finish(works, count));
        for (int i = 0; i < count; i++) end(works[i]);
    } else if (strcmp(scene, "elsewhere") == 0) {
        /* Each is resumed by a thread of its own. OpenSSL wants a job to end where it began: so it pauses again before. */
        int right = 0;
        twice = 1;
        start(works, count);
        for (int i = 0; i < count; i++) {
            pthread_t thread;
            pthread_create(&thread, NULL, resume, works[i]);
            pthread_join(thread, NULL);
            if (!go_on(works[i])) die("not ended");
            right += is_right(works[i]);
            end(works[i]);
        }
        printf("right %d\n", right);
    } else if (strcmp(scene, "blocked") == 0) {
        blocked = 1;
        long cpu = clock();
        start(works, count);
        int pauses = 0, right = 0;
        for (int i = 0; i < count; i++) pauses += works[i]->pauses, right += is_right(works[i]);
        printf("pauses %d right %d cpu %ld\n", pauses, right, (long)((clock() - cpu) * 1000 / CLOCKS_PER_SEC));
    } else if (strcmp(scene, "fork") == 0) {
        int right = 0, failed = 0;
        for (int way = 0; way < WAYS; way++) right += forked(way, count, &failed);
        printf("parent %d children %d\n", right, failed);
    } else if (strcmp(scene, "reused") == 0) {
        int good = 0;
        for (int kind = 0; kind < KINDS; kind++)
            for (int process = 0; process < PROCESSES; process++) good += reused(kind, process, count);
        printf("good %d descriptors %d\n", good, left_open());
    } else if (strcmp(scene, "exhausted") == 0) {
        int right = 0, paused = exhausted(count, &right);
        printf("right %d paused %d descriptors %d\n", right, paused, left_open());
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
    } else if (strcmp(scene, "context") == 0) {
        /* Everything that a process does once is done. */
        struct work *first = begin();
        run(&first);
        if (!is_right(first)) die("wrong");
        end(first);
        for (int i = 0; i < count; i++) late(argv[2], count == 1 ? 200000 : 1000 * i);
        usleep(count == 1 ? 3000000 : 0);
        printf("ended\n");
#endif
    } else if (strcmp(scene, "cleanup") == 0) {
        start(works, count);
        if (works[0]->state != ASYNC_PAUSE) die("not paused");
        /* What no worker has begun is not waited for. */
        usleep(100000);
        long begun = now();
        OPENSSL_cleanup();
        printf("ms %ld\n", now() - begun);
        fflush(stdout);
        _exit(0);
    } else if (strcmp(scene, "load") == 0) {
        ASYNC_JOB *job = NULL;
        ASYNC_WAIT_CTX *waiting = ASYNC_WAIT_CTX_new();
        int right = 0;
        if (ASYNC_start_job(&job, waiting, &right, load_in_a_job, &argv[2], sizeof(argv[2])) != ASYNC_FINISH) die("not ended");
        ASYNC_WAIT_CTX_free(waiting);
        printf("right %d depth %zu\n", right, depth);
    } else if (strcmp(scene, "forbidden") == 0) {
        /* As HAProxy does: nobody, who may start no thread. */
        struct rlimit none = {0, 0};
        if (setrlimit(RLIMIT_NPROC, &none) != 0 || setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0)
            die("becoming nobody");
        int right = 0, pauses = 0;
        for (int i = 0; i < count; i++) {
            start(works, 1);
            pauses += works[0]->pauses;
            right += finish(works, 1);
            end(works[0]);
        }
        printf("right %d pauses %d threads %d depth %zu\n", right, pauses, threads(), depth);
    } else if (strcmp(scene, "signals") == 0) {
        /* Signals that the application has for itself reach its own thread. */
        struct sigaction action = {.sa_handler = caught};
        sigaction(SIGUSR1, &action, NULL);
        int right = round_of(count);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        for (int i = 0; i < 100; i++) kill(getpid(), SIGUSR1), usleep(100);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        printf("right %d threads %d\n", right, threads());
    } else if (strcmp(scene, "none") == 0) {
        /* Outside of any job. */
        int right = 0;
        for (int i = 0; i < count; i++) {
            struct work *work = begin();
            run(&work);
            right += is_right(work);
            end(work);
        }
        printf("right %d threads %d\n", right, threads());
    } else {
        return 2;
    }
    EVP_PKEY_free(key);
    EVP_PKEY_free(public);
    ASYNC_cleanup_thread();
    return 0;
}
