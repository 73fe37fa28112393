/* SPDX-License-Identifier: Apache-2.0 */

/* The nodes of faultfs: each holds an O_PATH descriptor for as long as the kernel knows it. */
#include "faultfs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define NODES 4096

struct node {
    int fd; /* O_PATH, owned; 0: free */
    dev_t device;
    ino_t inode;
    uint64_t lookups; /* that the kernel will forget */
};

static struct node nodes[NODES]; /* [m] nodes_mu; by nodeid - 1, the first is the root */
static pthread_mutex_t nodes_mu = PTHREAD_MUTEX_INITIALIZER;

int nodes_init(const char *folder)
{
    nodes[0].fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return nodes[0].fd < 0 ? -errno : 0;
}

int node_fd(uint64_t id)
{
    int fd;

    pthread_mutex_lock(&nodes_mu);
    fd = nodes[id - 1].fd;
    pthread_mutex_unlock(&nodes_mu);
    return fd;
}

const char *node_path(uint64_t id, char path[PROC_BYTES])
{
    snprintf(path, PROC_BYTES, "/proc/self/fd/%d", node_fd(id));
    return path;
}

/* Under nodes_mu: the one of this file, or a free one; NULL if there is none. */
static struct node *node_find(const struct stat *st)
{
    struct node *free_one = NULL;

    for (struct node *n = nodes; n < nodes + NODES; n++) {
        if (n->fd > 0 && n->inode == st->st_ino && n->device == st->st_dev)
            return n;
        if (n->fd == 0 && !free_one)
            free_one = n;
    }
    return free_one;
}

static void fill_attr(struct fuse_attr *a, const struct stat *st)
{
    *a = (struct fuse_attr){
        .ino = st->st_ino,
        .size = (uint64_t)st->st_size,
        .blocks = (uint64_t)st->st_blocks,
        .atime = (uint64_t)st->st_atim.tv_sec,
        .mtime = (uint64_t)st->st_mtim.tv_sec,
        .ctime = (uint64_t)st->st_ctim.tv_sec,
        .atimensec = (uint32_t)st->st_atim.tv_nsec,
        .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
        .ctimensec = (uint32_t)st->st_ctim.tv_nsec,
        .mode = st->st_mode,
        .nlink = (uint32_t)st->st_nlink,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .blksize = 4096,
    };
}

int node_entry(int fd, struct fuse_entry_out *ret)
{
    struct node *n;
    struct stat st;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0) {
        close(fd);
        return -errno;
    }
    pthread_mutex_lock(&nodes_mu);
    n = node_find(&st);
    if (n && n->fd == 0)
        *n = (struct node){.fd = fd, .device = st.st_dev, .inode = st.st_ino};
    else
        close(fd);
    if (n)
        n->lookups++;
    pthread_mutex_unlock(&nodes_mu);
    if (!n)
        return -ENFILE;
    *ret = (struct fuse_entry_out){.nodeid = (uint64_t)(n - nodes) + 1};
    fill_attr(&ret->attr, &st);
    return 0;
}

void node_forget(uint64_t id, uint64_t lookups)
{
    struct node *n = &nodes[id - 1];

    pthread_mutex_lock(&nodes_mu);
    n->lookups -= MIN(lookups, n->lookups);
    if (n->lookups == 0 && n != nodes) {
        close(n->fd);
        n->fd = 0;
    }
    pthread_mutex_unlock(&nodes_mu);
}

int node_attr(int fd, struct fuse_attr *ret)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    fill_attr(ret, &st);
    return 0;
}
