/* A driver without a card, for the CUDA build of torch: preloaded in the place of libcuda.so.1.
   torch asks for the symbols while it loads; cuInit says that there is no device. Autograd starts a thread for each device
   that c10 counts, and wants one for tensors that say "cuda": there are some while `simulate_devices` says so. */
static int devices = 0;

void simulate_devices(int count) { devices = count; }

signed char _ZN3c104cuda12device_countEv(void) { return (signed char)devices; } /* c10::cuda::device_count() */

int cuInit(unsigned flags) { (void)flags; return 100; } /* CUDA_ERROR_NO_DEVICE */

int cuDriverGetVersion(int *version) { *version = 13000; return 0; }

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    (void)device;
    *flags = 0;
    *active = 0;
    return 0;
}

int cuGetErrorString(int error, const char **text) { (void)error; *text = "simulated"; return 0; }

int cuGetErrorName(int error, const char **text) { (void)error; *text = "simulated"; return 0; }
