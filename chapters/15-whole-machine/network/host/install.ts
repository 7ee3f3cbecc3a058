// # `user`, on this host

import { deviceTypes } from '../../../05-pio-mmio/machine/device-types.ts';
import { userNetdev } from '../netdev.ts';
import { nodeSockets } from './sockets.ts';

deviceTypes.netdevs.install(userNetdev(nodeSockets));
