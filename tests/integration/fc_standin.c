/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Stands in for Firecracker in tests of whoever starts it: its command line, its API socket, its
 * hand-over of memory, as its documents describe them. There is no guest: "vCPUs" are threads that
 * read pages and compare them with the file that the memory came from.
 *
 *     GET /version        200 with the version that --version-says names
 *     PUT /snapshot/load  204 when the state file is right and the memory is handed over and
 *                         touched; else 400 with a fault_message, and the process ends
 *     PATCH /vm           204, and the vCPUs run; the process ends with the last of them
 *
 * The state file is a line "standin BYTES", the size of guest memory. Requests are judged as
 * Firecracker judges them: unknown fields are refused. --misbehave has it do what no good VMM does,
 * at the point that the name says.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "client_util.h"
#include "vmm_client.h"

#define MMIO_HOLE    (3 * GIB) /* guest memory of x86-64 goes on above it, at 4 GiB */
#define VCPUS        2
#define LOAD_TOUCHES 16    /* pages that loading the state touches */
#define REQUEST_MAX  51200 /* Firecracker's own limit */
#define LATE_MS      50
#define HUGE_BODY    GIB

enum misbehaviour {
    GOOD,
    DIE_AT_START,    /* before there is a socket */
    NO_SOCKET,       /* there never is one */
    LISTEN_LATE,     /* bind, and later listen: allowed, and to be lived with */
    BAD_VERSION,     /* GET /version answers what is no version */
    REFUSE_LOAD,     /* 400, as for a drive that is not there */
    DIE_IN_LOAD,     /* SIGKILL when the memory has been touched */
    HANG_IN_LOAD,    /* no answer */
    GARBAGE_IN_LOAD, /* an answer that is no HTTP */
    CLOSE_IN_LOAD,   /* hangs up, and lives on */
    CUT_IN_LOAD,     /* hangs up in the middle of an answer */
    HUGE_IN_LOAD,    /* an answer without end */
    HEADERS_IN_LOAD, /* headers without end */
    ODD_ERROR,       /* status 500 with a body that is no JSON */
    NO_MEMORY,       /* 204 without a hand-over */
    MORE_MEMORY,     /* hands over more than the build has */
    REFUSE_RUN,      /* 400 to PATCH /vm */
    DIE_IN_RUN,      /* SIGKILL instead of the answer */
    IGNORE_TERM,     /* SIGTERM does nothing */
    MISBEHAVIOURS,
};

static const char *const names[MISBEHAVIOURS] = {
    "",
    "die-at-start",
    "no-socket",
    "listen-late",
    "bad-version",
    "refuse-load",
    "die-in-load",
    "hang-in-load",
    "garbage-in-load",
    "close-in-load",
    "cut-in-load",
    "huge-in-load",
    "headers-in-load",
    "odd-error",
    "no-memory",
    "more-memory",
    "refuse-run",
    "die-in-run",
    "ignore-term",
};

struct standin {
    const char *api_socket, *id, *image, *state, *result, *version;
    enum misbehaviour how;
    uint64_t pages; /* touched by the vCPUs; 0: all */
    bool hold;      /* the vCPUs never come to an end */

    struct vmm_client vmm;
    struct vmm_layout layout;
    int image_fd;
    bool loaded;
    unsigned requests;
    atomic_uint vcpus_left;
    atomic_uint_fast64_t next_page, touched;
};

[[gnu::noreturn, gnu::format(printf, 1, 2)]] static void die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("fc_standin: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    _exit(EXIT_WRONG);
}

[[gnu::noreturn]] static void stay(void)
{
    for (;;)
        pause();
}

/* --- memory --- */

static void check_page(struct standin *s, uint64_t page)
{
    char expected[PAGE_BYTES];
    uint64_t at = page * PAGE_BYTES;
    ssize_t n = pread(s->image_fd, expected, sizeof(expected), (off_t)at);

    if (n != (ssize_t)sizeof(expected))
        die("reading page %" PRIu64 " of %s", page, s->image);
    if (memcmp(vmm_client_host(&s->vmm, at), expected, sizeof(expected)) != 0)
        die("wrong bytes in page %" PRIu64, page);
    atomic_fetch_add(&s->touched, 1);
}

/* The @i-th of @n pages to touch: both sides of the hole and both ends first, then all over. */
static uint64_t page_of(const struct standin *s, uint64_t i, uint64_t n)
{
    uint64_t total = s->vmm.memory_bytes / PAGE_BYTES;
    uint64_t hole = s->layout.sizes[0] / PAGE_BYTES % total;
    const uint64_t first[] = {0, total - 1, hole, (hole + total - 1) % total};

    if (n >= total)
        return i;
    return i < ARRAY_SIZE(first) ? first[i] : util_mix(i) % total;
}

static void hand_over(struct standin *s, uint64_t bytes, const char *socket)
{
    uint64_t low = MIN(bytes, MMIO_HOLE);
    int r;

    s->layout = (struct vmm_layout){.page_bytes = PAGE_BYTES, .n_regions = 1, .sizes = {low}};
    if (bytes > low)
        s->layout.sizes[s->layout.n_regions++] = bytes - low;
    r = vmm_client_map(&s->vmm, &s->layout);
    if (r == 0)
        r = vmm_client_connect(&s->vmm, socket);
    if (r == 0)
        r = vmm_client_send(&s->vmm);
    if (r < 0)
        die("%s: %s", s->vmm.step, strerror(-r));
}

static void write_result(struct standin *s)
{
    FILE *f = s->result ? fopen(s->result, "w") : NULL;

    if (!f)
        return;
    fprintf(f, "{\"id\":\"%s\",\"regions\":%zu,\"touched\":%" PRIu64 ",\"requests\":%u}\n", s->id,
            s->vmm.n_regions, atomic_load(&s->touched), s->requests);
    fclose(f);
}

static void *vcpu(void *arg)
{
    struct standin *s = arg;
    uint64_t total = s->vmm.memory_bytes / PAGE_BYTES;
    uint64_t n = s->pages ? MIN(s->pages, total) : total, i;

    while ((i = atomic_fetch_add(&s->next_page, 1)) < n)
        check_page(s, page_of(s, i, n));
    if (atomic_fetch_sub(&s->vcpus_left, 1) > 1)
        return NULL;
    write_result(s);
    if (!s->hold)
        _exit(EXIT_OK);
    return NULL;
}

static void start_vcpus(struct standin *s)
{
    atomic_store(&s->vcpus_left, VCPUS);
    for (int i = 0; i < VCPUS; i++) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, vcpu, s) != 0)
            die("no thread for a vCPU");
        pthread_detach(thread);
    }
}

/* --- HTTP --- */

struct request {
    char line[256]; /* "PUT /snapshot/load" */
    char text[REQUEST_MAX + 1];
    const char *body;
};

static void put(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

        if (n < 0)
            return; /* nobody wants to know */
        text += n;
        len -= (size_t)n;
    }
}

static void put_text(int fd, const char *text)
{
    put(fd, text, strlen(text));
}

static void answer(int fd, unsigned status, const char *body)
{
    const char *reason = status == 200 ? "OK" : status == 204 ? "No Content" : "Bad Request";
    char *text = NULL;

    if (body[0] == '\0' ? asprintf(&text,
                                   "HTTP/1.1 %u %s\r\nServer: Firecracker API\r\n"
                                   "Connection: keep-alive\r\n\r\n",
                                   status, reason) < 0
                        : asprintf(&text,
                                   "HTTP/1.1 %u %s\r\nServer: Firecracker API\r\n"
                                   "Connection: keep-alive\r\nContent-Type: application/json\r\n"
                                   "Content-Length: %zu\r\n\r\n%s",
                                   status, reason, strlen(body), body) < 0)
        die("no memory");
    put_text(fd, text);
    free(text);
}

[[gnu::format(printf, 2, 3)]] static void answer_fault(int fd, const char *fmt, ...)
{
    char *message = NULL, *body;
    json_t *fault;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&message, fmt, ap) < 0)
        die("no memory");
    va_end(ap);
    fault = json_pack("{s:s}", "fault_message", message);
    body = json_dumps(fault, JSON_COMPACT);
    answer(fd, 400, body);
    free(body);
    json_decref(fault);
    free(message);
}

/* One request, or false at the end of the connection. */
static bool read_request(int fd, struct request *q)
{
    size_t len = 0, wanted = 0;
    char *head_end = NULL, *length;

    while (!head_end || len < wanted) {
        ssize_t n = recv(fd, q->text + len, REQUEST_MAX - len, 0);

        if (n <= 0)
            return false;
        len += (size_t)n;
        q->text[len] = '\0';
        head_end = strstr(q->text, "\r\n\r\n");
        if (!head_end)
            continue;
        length = strcasestr(q->text, "\r\nContent-Length:");
        q->body = head_end + 4;
        wanted = (size_t)(q->body - q->text);
        if (length && length < head_end)
            wanted += strtoul(length + strlen("\r\nContent-Length:"), NULL, 10);
        if (wanted > REQUEST_MAX)
            die("a request of %zu bytes", wanted);
    }
    if (sscanf(q->text, "%255[^\r]", q->line) != 1 || !strstr(q->line, " HTTP/1.1"))
        die("no request of HTTP/1.1: %s", q->text);
    *strstr(q->line, " HTTP/1.1") = '\0';
    return true;
}

/* --- the API --- */

static void misbehave_in_load(struct standin *s, int fd)
{
    static char filler[65536];

    switch (s->how) {
    case REFUSE_LOAD:
        answer_fault(fd, "Load snapshot error: Failed to restore from snapshot: Failed to restore "
                         "devices: Block: /dev/nbd7: No such file or directory \033[31m");
        fputs("Failed to restore; the process ends\n", stderr);
        _exit(EXIT_WRONG);
    case HANG_IN_LOAD:
        stay();
    case GARBAGE_IN_LOAD:
        put_text(fd, "SSH-2.0-OpenSSH_9.2p1\r\n");
        break;
    case CUT_IN_LOAD:
        put_text(fd, "HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{\"fault_me");
        break;
    case HUGE_IN_LOAD:
        memset(filler, ' ', sizeof(filler));
        put_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
        for (uint64_t sent = 0; sent < HUGE_BODY; sent += sizeof(filler))
            put(fd, filler, sizeof(filler));
        break;
    case HEADERS_IN_LOAD:
        put_text(fd, "HTTP/1.1 200 OK\r\n");
        for (uint64_t sent = 0; sent < HUGE_BODY; sent += 16)
            put_text(fd, "X-Filler: lots\r\n");
        break;
    case ODD_ERROR:
        put_text(fd, "HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\n<html>\r\n\n");
        break;
    default:
        break;
    }
}

static bool only_has(const json_t *object, const char *const *keys)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        size_t i = 0;

        while (keys[i] && strcmp(keys[i], key) != 0)
            i++;
        if (!keys[i])
            return false;
    }
    return true;
}

/* The two paths of a load request that this Firecracker takes, or false. */
static bool parse_load(const json_t *body, const char **ret_state, const char **ret_socket)
{
    static const char *const keys[] = {"snapshot_path", "mem_backend", "track_dirty_pages",
                                       "resume_vm", NULL};
    static const char *const backend_keys[] = {"backend_type", "backend_path", NULL};
    const json_t *backend = json_object_get(body, "mem_backend");
    const char *type = json_string_value(json_object_get(backend, "backend_type"));

    *ret_state = json_string_value(json_object_get(body, "snapshot_path"));
    *ret_socket = json_string_value(json_object_get(backend, "backend_path"));
    return *ret_state && *ret_socket && type && strcmp(type, "Uffd") == 0 && only_has(body, keys) &&
           only_has(backend, backend_keys) && !json_is_true(json_object_get(body, "resume_vm"));
}

/* The state must be the one that the build was made from, to the byte. The memory it describes. */
static uint64_t read_state(const struct standin *s, const char *path)
{
    char ours[4096], theirs[4096];
    int fd CLEANUP_FD = open(path, O_RDONLY | O_CLOEXEC);
    int wanted CLEANUP_FD = open(s->state, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, theirs, sizeof(theirs) - 1), m = read(wanted, ours, sizeof(ours) - 1);
    uint64_t bytes;

    if (n <= 0 || n != m || memcmp(ours, theirs, (size_t)n) != 0)
        return 0;
    theirs[n] = '\0';
    return sscanf(theirs, "standin %" SCNu64, &bytes) == 1 ? bytes : 0;
}

static void load(struct standin *s, int fd, const char *text)
{
    json_t *body = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const char *state, *socket;
    uint64_t bytes;

    if (s->loaded || !parse_load(body, &state, &socket)) {
        answer_fault(fd, "The load request is not as it must be: %s", text);
        json_decref(body);
        return;
    }
    bytes = read_state(s, state);
    if (bytes == 0) {
        answer_fault(fd, "Load snapshot error: %s is not the state that was saved", state);
        die("Failed to get snapshot state from file");
    }
    if (s->how != NO_MEMORY)
        hand_over(s, s->how == MORE_MEMORY ? bytes + MIB : bytes, socket);
    for (uint64_t i = 0; i < LOAD_TOUCHES && s->how != NO_MEMORY; i++)
        check_page(s, page_of(s, i, LOAD_TOUCHES));
    json_decref(body);
    s->loaded = true;
    if (s->how == DIE_IN_LOAD)
        raise(SIGKILL);
    if (s->how >= HANG_IN_LOAD && s->how <= ODD_ERROR)
        misbehave_in_load(s, fd);
    else
        answer(fd, 204, "");
}

static void change_state(struct standin *s, int fd, const char *text)
{
    if (!s->loaded || strcmp(text, "{\"state\":\"Resumed\"}") != 0) {
        answer_fault(fd, "The requested operation is not supported: %s", text);
        return;
    }
    if (s->how == DIE_IN_RUN)
        raise(SIGKILL);
    if (s->how == REFUSE_RUN) {
        answer_fault(fd, "Internal Vmm error: Failed to resume");
        return;
    }
    answer(fd, 204, "");
    start_vcpus(s);
}

static void tell_version(struct standin *s, int fd)
{
    char body[256];

    snprintf(body, sizeof(body), "{\"firecracker_version\":\"%s\"}", s->version);
    answer(fd, 200, s->how == BAD_VERSION ? "{\"firecracker_version\":17}" : body);
}

static void serve(struct standin *s, int fd)
{
    static struct request q;

    while (read_request(fd, &q)) {
        s->requests++;
        if (strcmp(q.line, "GET /version") == 0) {
            tell_version(s, fd);
        } else if (strcmp(q.line, "PUT /snapshot/load") == 0) {
            if (s->how == REFUSE_LOAD)
                misbehave_in_load(s, fd);
            load(s, fd, q.body);
            if (s->how >= GARBAGE_IN_LOAD && s->how <= ODD_ERROR)
                return; /* and so the connection is closed */
        } else if (strcmp(q.line, "PATCH /vm") == 0) {
            change_state(s, fd, q.body);
        } else {
            answer_fault(fd, "Invalid request method and/or path: %s.", q.line);
        }
    }
}

/* --- start --- */

/* Whoever has started us must be able to wait, for the socket and for its being listened on. */
static void be_late(const struct standin *s)
{
    if (s->how == LISTEN_LATE)
        nanosleep(&(struct timespec){.tv_nsec = LATE_MS * (long)1000000}, NULL);
}

static int listen_at(const struct standin *s)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(s->api_socket) >= sizeof(addr.sun_path))
        die("%s is too long", s->api_socket);
    memcpy(addr.sun_path, s->api_socket, strlen(s->api_socket));
    be_late(s);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
        die("Failed to open the API socket at: %s. Check that it is not already used.",
            s->api_socket);
    be_late(s);
    if (listen(fd, 10) < 0)
        die("listen: %s", strerror(errno));
    return fd;
}

static void parse_misbehaviour(struct standin *s, const char *name)
{
    for (int i = 1; i < MISBEHAVIOURS; i++) {
        if (strcmp(names[i], name) == 0)
            s->how = (enum misbehaviour)i;
    }
    if (s->how == GOOD)
        die("no such misbehaviour: %s", name);
}

static void parse(struct standin *s, int argc, char **argv)
{
    enum { API_SOCK = 256, ID, IMAGE, STATE, RESULT, VERSION, MISBEHAVE, PAGES, HOLD };
    static const struct option options[] = {
        {"api-sock", required_argument, NULL, API_SOCK},
        {"id", required_argument, NULL, ID},
        {"image", required_argument, NULL, IMAGE},
        {"state", required_argument, NULL, STATE},
        {"result", required_argument, NULL, RESULT},
        {"version-says", required_argument, NULL, VERSION},
        {"misbehave", required_argument, NULL, MISBEHAVE},
        {"pages", required_argument, NULL, PAGES},
        {"hold", no_argument, NULL, HOLD},
        {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case API_SOCK:
            s->api_socket = optarg;
            break;
        case ID:
            s->id = optarg;
            break;
        case IMAGE:
            s->image = optarg;
            break;
        case STATE:
            s->state = optarg;
            break;
        case RESULT:
            s->result = optarg;
            break;
        case VERSION:
            s->version = optarg;
            break;
        case MISBEHAVE:
            parse_misbehaviour(s, optarg);
            break;
        case HOLD:
            s->hold = true;
            break;
        case PAGES:
            if (util_parse_count(optarg, UINT32_MAX, &s->pages) == 0)
                break;
            [[fallthrough]];
        default:
            _exit(EXIT_USAGE);
        }
    }
    if (optind < argc || !s->api_socket || !s->image || !s->state) {
        fputs("Arguments parsing error: see the source of fc_standin\n", stderr);
        _exit(EXIT_USAGE);
    }
}

int main(int argc, char **argv)
{
    static struct standin s = {.version = "1.12.1", .id = "anonymous-instance", .image_fd = -1};
    int listen_fd;

    parse(&s, argc, argv);
    s.image_fd = open(s.image, O_RDONLY | O_CLOEXEC);
    if (s.image_fd < 0)
        die("%s: %s", s.image, strerror(errno));
    if (s.how == DIE_AT_START)
        die("Invalid value for 'kvm': it is not there");
    if (s.how == NO_SOCKET)
        stay();
    if (s.how == IGNORE_TERM)
        signal(SIGTERM, SIG_IGN);
    listen_fd = listen_at(&s);
    for (;;) {
        int fd CLEANUP_FD = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

        if (fd >= 0)
            serve(&s, fd);
    }
}
