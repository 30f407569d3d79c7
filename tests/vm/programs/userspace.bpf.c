#include "workbench.h"

__u64 calls, returns, getppids;

SEC("uprobe")
int called(void *ctx)
{
	__sync_fetch_and_add(&calls, 1);
	return 0;
}

SEC("uretprobe")
int returned(void *ctx)
{
	__sync_fetch_and_add(&returns, 1);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_getppid")
int entered(void *ctx)
{
	__sync_fetch_and_add(&getppids, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
