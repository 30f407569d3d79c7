#define WB_KEY 16
#include "hash.h"
