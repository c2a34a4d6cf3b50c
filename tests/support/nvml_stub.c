/* A libnvidia-ml.so.1 for tests, with as much of NVML as the product asks for.
 *
 * STUB_NVML_GPUS    "NAME:TOTAL_MB:MAJOR.MINOR[:KEY=VALUE]...", separated by commas;
 *                   keys: used=MB, mig=0|1, proc=PID/MB (again for more), lost=1
 * STUB_NVML_INIT    return code of nvmlInit (0)
 * STUB_NVML_DRIVER  driver version (570.86.15)
 * STUB_NVML_CUDA    newest CUDA as NVML counts it (12080 is 12.8)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15 };
enum { MAX_GPUS = 64, MAX_PROCESSES = 8 };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int instance, compute_instance;
} Process;
typedef struct {
    char legacy_id[16];
    unsigned int domain, bus, device, device_id, subsystem_id;
    char id[32];
} Pci;
typedef struct {
    char name[96];
    unsigned long long total_mb, used_mb;
    int major, minor, mig, lost;
    unsigned int processes;
    Process process[MAX_PROCESSES];
} Gpu;

static Gpu gpus[MAX_GPUS];
static unsigned int gpu_count;

static void read_key(Gpu *gpu, const char *text) {
    unsigned int pid;
    unsigned long long mb;
    if (sscanf(text, "proc=%u/%llu", &pid, &mb) == 2 && gpu->processes < MAX_PROCESSES) {
        gpu->process[gpu->processes].pid = pid;
        gpu->process[gpu->processes++].used = mb << 20;
        return;
    }
    sscanf(text, "used=%llu", &gpu->used_mb);
    sscanf(text, "mig=%d", &gpu->mig);
    sscanf(text, "lost=%d", &gpu->lost);
}

static void read_gpu(char *text) {
    Gpu *gpu = &gpus[gpu_count++];
    char *rest = text, *part;
    memset(gpu, 0, sizeof *gpu);
    gpu->mig = -1; /* not supported until it is set */
    for (int field = 0; (part = strsep(&rest, ":")); field++) {
        if (field == 0)
            snprintf(gpu->name, sizeof gpu->name, "%s", part);
        else if (field == 1)
            gpu->total_mb = strtoull(part, NULL, 10);
        else if (field == 2)
            sscanf(part, "%d.%d", &gpu->major, &gpu->minor);
        else
            read_key(gpu, part);
    }
}

static const char *variable(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

int nvmlInitWithFlags(unsigned int flags) {
    char *copy = strdup(variable("STUB_NVML_GPUS", "")), *rest = copy, *one;
    (void)flags;
    gpu_count = 0;
    while ((one = strsep(&rest, ",")) && gpu_count < MAX_GPUS)
        if (*one)
            read_gpu(one);
    free(copy);
    return atoi(variable("STUB_NVML_INIT", "0"));
}

int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stub"; }

int nvmlSystemGetDriverVersion(char *out, unsigned int size) {
    snprintf(out, size, "%s", variable("STUB_NVML_DRIVER", "570.86.15"));
    return OK;
}

int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    *out = atoi(variable("STUB_NVML_CUDA", "12080"));
    return OK;
}

int nvmlSystemGetProcessName(unsigned int pid, char *out, unsigned int size) {
    if (pid == 0)
        return NOT_FOUND;
    snprintf(out, size, "process-%u", pid);
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned int *out) { *out = gpu_count; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Gpu **out) {
    if (index >= gpu_count)
        return INVALID;
    *out = &gpus[index];
    return gpus[index].lost ? LOST : OK;
}

int nvmlDeviceGetName(Gpu *gpu, char *out, unsigned int size) {
    snprintf(out, size, "%s", gpu->name);
    return OK;
}

int nvmlDeviceGetUUID(Gpu *gpu, char *out, unsigned int size) {
    snprintf(out, size, "GPU-%08x-0000-0000-0000-000000000000", (unsigned int)(gpu - gpus));
    return OK;
}

int nvmlDeviceGetMemoryInfo(Gpu *gpu, Memory *out) {
    out->total = gpu->total_mb << 20;
    out->used = gpu->used_mb << 20;
    out->free = out->total - out->used;
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(Gpu *gpu, int *major, int *minor) {
    *major = gpu->major;
    *minor = gpu->minor;
    return OK;
}

int nvmlDeviceGetMigMode(Gpu *gpu, unsigned int *current, unsigned int *pending) {
    if (gpu->mig < 0)
        return NOT_SUPPORTED;
    *current = *pending = (unsigned int)gpu->mig;
    return OK;
}

int nvmlDeviceGetPciInfo_v3(Gpu *gpu, Pci *out) {
    memset(out, 0, sizeof *out);
    out->bus = 16 + (unsigned int)(gpu - gpus);
    snprintf(out->id, sizeof out->id, "00000000:%02X:00.0", out->bus & 0xff);
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Gpu *gpu, unsigned int *count, Process *out) {
    unsigned int room = *count;
    *count = gpu->processes;
    if (gpu->processes == 0)
        return OK;
    if (room < gpu->processes || !out)
        return TOO_SMALL;
    memcpy(out, gpu->process, gpu->processes * sizeof *out);
    return OK;
}
