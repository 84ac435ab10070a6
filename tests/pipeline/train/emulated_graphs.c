/* CUDA graphs for the emulated GPU: preloaded before its runtime, whose stubs of these functions do nothing.

   One stream captures at a time. What a real device refuses while a stream captures (waiting for it, copies from memory
   that is not page-locked) is refused here too, and the capture is then invalid. Launches of graphs are counted; what
   their kernels compute is up to `emulated_graphs.py`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

enum { OK = 0, UNSUPPORTED = 900, INVALIDATED = 901 };
enum { NOT_CAPTURING, CAPTURING, INVALID };
enum { PAGEABLE = 0, PINNED = 1, DEVICE = 2 };

static void *stream_that_captures;
static int status;
static unsigned long long captures;
static long nodes, launches;
static long graph_token, exec_token;

long fakegraphs_launches(void) { return launches; }

#define NEXT(name) \
  static int (*next)(); \
  if (!next) next = (int (*)())dlsym(RTLD_NEXT, name)

static int refuse(void) {
  status = INVALID;
  return UNSUPPORTED;
}

int cudaStreamBeginCapture(void *stream, int mode) {
  stream_that_captures = stream;
  status = CAPTURING;
  captures++;
  nodes = 0;
  return OK;
}

int cudaStreamEndCapture(void *stream, void **graph) {
  int was = status;
  status = NOT_CAPTURING;
  stream_that_captures = NULL;
  *graph = was == CAPTURING ? &graph_token : NULL;
  return was == CAPTURING ? OK : INVALIDATED;
}

static int status_of(void *stream) { return stream && stream == stream_that_captures ? status : NOT_CAPTURING; }

int cudaStreamIsCapturing(void *stream, int *found) {
  *found = status_of(stream);
  return OK;
}

int cudaStreamGetCaptureInfo(void *stream, int *found, unsigned long long *id, void **graph, void **dependencies,
                             void **edges, size_t *count) {
  *found = status_of(stream);
  if (id) *id = captures;
  if (graph) *graph = *found == CAPTURING ? &graph_token : NULL;
  if (dependencies) *dependencies = NULL;
  if (edges) *edges = NULL;
  if (count) *count = 0;
  return OK;
}

int cudaGraphGetNodes(void *graph, void **found, size_t *count) {
  *count = nodes ? nodes : 1;
  return OK;
}

int cudaGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
  *exec = &exec_token;
  return OK;
}

int cudaGraphLaunch(void *exec, void *stream) {
  __atomic_add_fetch(&launches, 1, __ATOMIC_RELAXED);
  return OK;
}

int cudaStreamSynchronize(void *stream) {
  NEXT("cudaStreamSynchronize");
  return status_of(stream) != NOT_CAPTURING ? refuse() : next(stream);
}

int cudaDeviceSynchronize(void) {
  NEXT("cudaDeviceSynchronize");
  return status != NOT_CAPTURING ? refuse() : next();
}

int cudaMemcpyAsync(void *target, const void *source, size_t size, int kind, void *stream) {
  NEXT("cudaMemcpyAsync");
  static int (*kind_of)(const void *);
  if (!kind_of) kind_of = (int (*)(const void *))dlsym(RTLD_NEXT, "fakecuda_kind");
  if (status_of(stream) != NOT_CAPTURING) {
    if (kind_of(target) == PAGEABLE || kind_of(source) == PAGEABLE) return refuse();
    nodes++;
    return OK; /* the copy is recorded, not made */
  }
  return next(target, source, size, kind, stream);
}

int cudaMemsetAsync(void *target, int value, size_t size, void *stream) {
  NEXT("cudaMemsetAsync");
  if (status_of(stream) != NOT_CAPTURING) {
    nodes++;
    return OK;
  }
  return next(target, value, size, stream);
}
