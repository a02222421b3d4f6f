"""The gateway's own API below /bursar/v1/: routes, who may ask what, answers. In the office's process, never in the gateway's."""
