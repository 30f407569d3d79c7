/* A Redis module with a fault: `audit_digest` is computed over every command before it is carried out.
 *
 *     WORKBENCH_KNOBS=FILE redis-server --loadmodule redis_audit.so
 *
 * Redis gives modules its functions by name (redismodule.h, RedisModule_GetApi); the few that are needed are declared
 * here.
 */
#include "planted.h"

#define REDISMODULE_OK 0
#define REDISMODULE_ERR 1
#define REDISMODULE_APIVER_1 1

struct RedisModuleCtx {
	int (*get_function)(const char *name, void *place);
};
typedef struct RedisModuleCtx RedisModuleCtx;
typedef struct RedisModuleString RedisModuleString;
typedef struct RedisModuleCommandFilterCtx RedisModuleCommandFilterCtx;

static void (*set_attributes)(RedisModuleCtx *, const char *name, int version, int api);
static void *(*register_filter)(RedisModuleCtx *, void (*)(RedisModuleCommandFilterCtx *), int flags);
static int (*arguments)(RedisModuleCommandFilterCtx *);

static const volatile uint64_t *knobs;
static volatile uint64_t digest;

PLANTED(audit_digest)

static void audit(RedisModuleCommandFilterCtx *filter)
{
	digest = audit_digest(knobs, digest + (uint64_t)arguments(filter));
}

PUBLIC int RedisModule_OnLoad(RedisModuleCtx *context, void **argv, int argc)
{
	(void)argv, (void)argc;
	knobs = planted_knobs();
	if (!knobs || context->get_function("RedisModule_SetModuleAttribs", &set_attributes) ||
	    context->get_function("RedisModule_RegisterCommandFilter", &register_filter) ||
	    context->get_function("RedisModule_CommandFilterArgsCount", &arguments))
		return REDISMODULE_ERR;
	set_attributes(context, "audit", 1, REDISMODULE_APIVER_1);
	return register_filter(context, audit, 0) ? REDISMODULE_OK : REDISMODULE_ERR;
}
