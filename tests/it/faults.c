/* A Vulkan layer under which calls fail as told: the file named by REGARD_FAULT holds `FUNCTION RESULT`, such as
 * `vkQueueSubmit -4` (VK_ERROR_DEVICE_LOST), or nothing. Written from the loader's interface to layers (Khronos,
 * Vulkan-Loader, docs/LoaderLayerInterface.md); handles and pointers are passed on as they are, so no header is needed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uintptr_t Any;
typedef void (*Function)(void);
typedef Function (*GetProcAddr)(Any object, const char *name);

/* VkLayerInstanceCreateInfo and VkLayerDeviceCreateInfo with VK_LAYER_LINK_INFO, and their links. */
struct Link {
    struct Link *next;
    GetProcAddr get_instance_proc_addr;
    GetProcAddr other; /* of a device: vkGetDeviceProcAddr */
};
struct Info {
    int type;
    struct Info *next;
    int function;
    struct Link *link;
};
struct CreateInfo {
    int type;
    struct Info *next;
};
enum { INSTANCE_INFO = 47, DEVICE_INFO = 48, LINK_INFO = 0 };

static GetProcAddr next_instance, next_device;

static struct Info *link_info(const struct CreateInfo *create, int type) {
    struct Info *info = create->next;
    while (info && !(info->type == type && info->function == LINK_INFO)) info = info->next;
    return info;
}

static int32_t create_instance(const struct CreateInfo *create, Any allocator, Any *instance) {
    struct Info *info = link_info(create, INSTANCE_INFO);
    next_instance = info->link->get_instance_proc_addr;
    info->link = info->link->next;
    return ((int32_t (*)(const void *, Any, Any *))next_instance(0, "vkCreateInstance"))(create, allocator, instance);
}

static int32_t create_device(Any physical, const struct CreateInfo *create, Any allocator, Any *device) {
    struct Info *info = link_info(create, DEVICE_INFO);
    GetProcAddr get = info->link->get_instance_proc_addr;
    next_device = info->link->other;
    info->link = info->link->next;
    typedef int32_t (*Create)(Any, const void *, Any, Any *);
    return ((Create)get(0, "vkCreateDevice"))(physical, create, allocator, device);
}

/* The result that a function is told to give, 0 for none. */
static int32_t told(const char *function) {
    char name[64];
    int result = 0;
    const char *path = getenv("REGARD_FAULT");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    int read = fscanf(file, "%63s %d", name, &result);
    fclose(file);
    return read == 2 && strcmp(name, function) == 0 ? result : 0;
}

/* Every device has the same driver here, so one pointer each is enough. */
#define FUNCTIONS(each) \
    each(vkAllocateMemory) each(vkMapMemory) each(vkCreateBuffer) each(vkCreateShaderModule) \
    each(vkCreateDescriptorSetLayout) each(vkCreatePipelineLayout) each(vkCreateComputePipelines) \
    each(vkCreateDescriptorPool) each(vkAllocateDescriptorSets) each(vkCreateCommandPool) \
    each(vkAllocateCommandBuffers) each(vkBeginCommandBuffer) each(vkEndCommandBuffer) each(vkQueueSubmit) \
    each(vkWaitSemaphores) each(vkGetSemaphoreCounterValue) each(vkQueueWaitIdle) each(vkDeviceWaitIdle)
typedef int32_t (*Real)(Any, Any, Any, Any, Any, Any);
#define WRAP(name) \
    static Real real_##name; \
    static int32_t wrap_##name(Any a, Any b, Any c, Any d, Any e, Any f) { \
        int32_t result = told(#name); \
        return result ? result : real_##name(a, b, c, d, e, f); \
    }
FUNCTIONS(WRAP)

__attribute__((visibility("default"))) Function regard_device_proc_addr(Any device, const char *name) {
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (Function)regard_device_proc_addr;
    Function real = next_device(device, name);
    size_t length = strlen(name);
    /* vkWaitSemaphoresKHR is the same function. */
    if (length > 3 && strcmp(name + length - 3, "KHR") == 0) length -= 3;
#define FIND(wanted) \
    if (real && strlen(#wanted) == length && strncmp(name, #wanted, length) == 0) { \
        real_##wanted = (Real)real; \
        return (Function)wrap_##wanted; \
    }
    FUNCTIONS(FIND)
    return real;
}

__attribute__((visibility("default"))) Function regard_instance_proc_addr(Any instance, const char *name) {
    if (strcmp(name, "vkGetInstanceProcAddr") == 0) return (Function)regard_instance_proc_addr;
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (Function)regard_device_proc_addr;
    if (strcmp(name, "vkCreateInstance") == 0) return (Function)create_instance;
    if (strcmp(name, "vkCreateDevice") == 0) return (Function)create_device;
    return next_instance ? next_instance(instance, name) : NULL;
}
