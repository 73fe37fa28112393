/* SPDX-License-Identifier: Apache-2.0 */
#include "rules.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_BYTES 200
#define ERRNO_MAX  512 /* the kernel takes no larger ones of a FUSE file system */

struct rule {
    struct fault fault;
    uint64_t after; /* that many pass yet */
    uint64_t times; /* that many are hit then */
    uint64_t seen, hit;
};

struct held {
    struct held *next;
    char request[] __attribute__((aligned(8)));
};

static struct rule rules[FAULT_OPS];
static struct held *hung;                              /* the last one first */
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER; /* guards rules, hung */
static pthread_cond_t somebody_was_hit = PTHREAD_COND_INITIALIZER;
static void (*serve)(const void *request);
static int listener;

static const char *const ops[FAULT_OPS] = {
    [OP_READ] = "read",     [OP_WRITE] = "write",         [OP_OPEN] = "open",
    [OP_CREATE] = "create", [OP_FALLOCATE] = "fallocate", [OP_STATFS] = "statfs",
    [OP_LSEEK] = "lseek",   [OP_UNLINK] = "unlink",       [OP_FLOCK] = "flock",
    [OP_RENAME] = "rename", [OP_SETATTR] = "setattr",     [OP_READDIR] = "readdir",
    [OP_FSYNC] = "fsync",
};

static void hold(const void *request, size_t len)
{
    struct held *h = malloc(sizeof(*h) + len);

    if (!h)
        abort();
    memcpy(h->request, request, len);
    h->next = hung;
    hung = h;
}

/* What is hit is counted when it is held already: who was told of it may let it go. */
struct fault fault_judge(enum fault_op op, const void *request, size_t len)
{
    struct rule *r = &rules[op];
    struct fault f = {.kind = FAULT_NONE};

    if (op == OP_OTHER)
        return f;
    pthread_mutex_lock(&mu);
    r->seen++;
    if (r->fault.kind != FAULT_NONE && r->after > 0) {
        r->after--;
    } else if (r->fault.kind != FAULT_NONE && r->times > 0) {
        r->times--;
        r->hit++;
        f = r->fault;
        pthread_cond_broadcast(&somebody_was_hit);
    }
    if (f.kind == FAULT_HANG)
        hold(request, len);
    pthread_mutex_unlock(&mu);
    return f;
}

static void let_go(void)
{
    struct held *h, *next;

    pthread_mutex_lock(&mu);
    h = hung;
    hung = NULL;
    pthread_mutex_unlock(&mu);
    for (; h; h = next) {
        next = h->next;
        serve(h->request);
        free(h);
    }
}

/* --- orders --- */

static struct rule *rule_of(const char *op)
{
    for (unsigned i = 0; i < FAULT_OPS; i++)
        if (ops[i] && strcmp(ops[i], op) == 0)
            return &rules[i];
    return NULL;
}

static bool parse_kind(const char *word, struct fault *ret)
{
    unsigned error = 0;
    int end = 0;

    if (strcmp(word, "short") == 0)
        ret->kind = FAULT_SHORT;
    else if (strcmp(word, "flip") == 0)
        ret->kind = FAULT_FLIP;
    else if (strcmp(word, "hang") == 0)
        ret->kind = FAULT_HANG;
    else if (sscanf(word, "fail=%3u%n", &error, &end) == 1 && word[end] == '\0' && error > 0 &&
             error < ERRNO_MAX)
        *ret = (struct fault){.kind = FAULT_ERROR, .error = (int)error};
    return ret->kind != FAULT_NONE;
}

static bool parse_rule(const char *text, struct rule *ret)
{
    char word[20];
    long times = 0;
    int end = 0;

    *ret = (struct rule){0};
    if (strcmp(text, "pass") == 0)
        return true;
    if (sscanf(text, "%19s %lu %ld%n", word, &ret->after, &times, &end) != 3 || text[end] != '\0')
        return false;
    ret->times = times < 0 ? UINT64_MAX : (uint64_t)times;
    return parse_kind(word, &ret->fault);
}

/* Under mu; the answer is in @line afterwards. */
static void obey_for(struct rule *r, const char *what, char *line)
{
    unsigned long wanted;
    struct rule new;

    if (strcmp(what, "count") == 0) {
        snprintf(line, LINE_BYTES, "%lu %lu", r->seen, r->hit);
        return;
    }
    if (sscanf(what, "wait %lu", &wanted) == 1) {
        while (r->hit < wanted)
            pthread_cond_wait(&somebody_was_hit, &mu);
    } else if (parse_rule(what, &new)) {
        *r = new;
    } else {
        snprintf(line, LINE_BYTES, "error: that is no order");
        return;
    }
    snprintf(line, LINE_BYTES, "ok");
}

static void obey(char *line)
{
    char *blank = strchr(line, ' ');
    struct rule *r;

    if (strcmp(line, "go") == 0) {
        let_go();
        snprintf(line, LINE_BYTES, "ok");
        return;
    }
    if (blank)
        *blank = '\0';
    r = rule_of(line);
    if (!blank || !r) {
        snprintf(line, LINE_BYTES, "error: there is no such operation");
        return;
    }
    pthread_mutex_lock(&mu);
    obey_for(r, blank + 1, line);
    pthread_mutex_unlock(&mu);
}

static void *serve_one(void *arg)
{
    FILE *f = arg;
    char line[LINE_BYTES];

    while (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        obey(line);
        if (dprintf(fileno(f), "%s\n", line) < 0)
            break;
    }
    fclose(f);
    return NULL;
}

static void *take_orders(void *arg)
{
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        FILE *f = fdopen(fd, "r");
        pthread_t thread;

        if (!f || pthread_create(&thread, NULL, serve_one, f) != 0)
            abort();
        pthread_detach(thread);
    }
    return arg;
}

int faults_listen(const char *path, void (*serve_held)(const void *request))
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    pthread_t thread;

    if ((size_t)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path) >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    serve = serve_held;
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        listen(listener, 8) < 0)
        return -errno;
    if (pthread_create(&thread, NULL, take_orders, NULL) != 0)
        return -EAGAIN;
    pthread_detach(thread);
    return 0;
}
