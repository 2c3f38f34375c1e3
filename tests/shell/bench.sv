// The accelerator with its bus on either of two sides: the simulated DRAM, or the test's own ports.
module bench #(
  parameter int BUS_BITS = 64
) (
  input logic aclk,
  input logic aresetn,
  output logic interrupt,
  output logic violation,
  input logic use_dram,  // constant while a test runs

  input logic [11:0] s_axi_awaddr,
  input logic [2:0] s_axi_awprot,
  input logic s_axi_awvalid,
  output logic s_axi_awready,
  input logic [31:0] s_axi_wdata,
  input logic [3:0] s_axi_wstrb,
  input logic s_axi_wvalid,
  output logic s_axi_wready,
  output logic [1:0] s_axi_bresp,
  output logic s_axi_bvalid,
  input logic s_axi_bready,
  input logic [11:0] s_axi_araddr,
  input logic [2:0] s_axi_arprot,
  input logic s_axi_arvalid,
  output logic s_axi_arready,
  output logic [31:0] s_axi_rdata,
  output logic [1:0] s_axi_rresp,
  output logic s_axi_rvalid,
  input logic s_axi_rready,

  output logic [0:0] m_axi_arid,
  output logic [63:0] m_axi_araddr,
  output logic [7:0] m_axi_arlen,
  output logic [2:0] m_axi_arsize,
  output logic [1:0] m_axi_arburst,
  output logic m_axi_arvalid,
  input logic m_axi_arready,
  input logic [0:0] m_axi_rid,
  input logic [BUS_BITS-1:0] m_axi_rdata,
  input logic [1:0] m_axi_rresp,
  input logic m_axi_rlast,
  input logic m_axi_rvalid,
  output logic m_axi_rready,
  output logic [0:0] m_axi_awid,
  output logic [63:0] m_axi_awaddr,
  output logic [7:0] m_axi_awlen,
  output logic [2:0] m_axi_awsize,
  output logic [1:0] m_axi_awburst,
  output logic m_axi_awvalid,
  input logic m_axi_awready,
  output logic [BUS_BITS-1:0] m_axi_wdata,
  output logic [BUS_BITS/8-1:0] m_axi_wstrb,
  output logic m_axi_wlast,
  output logic m_axi_wvalid,
  input logic m_axi_wready,
  input logic [0:0] m_axi_bid,
  input logic [1:0] m_axi_bresp,
  input logic m_axi_bvalid,
  output logic m_axi_bready
);
  logic arvalid, awvalid, wvalid, rready, bready;
  logic dram_arready, dram_awready, dram_wready, dram_rvalid, dram_rlast, dram_bvalid;
  logic [0:0] dram_rid, dram_bid;
  logic [1:0] dram_rresp, dram_bresp;
  logic [BUS_BITS-1:0] dram_rdata;

  assign m_axi_arvalid = arvalid && !use_dram;
  assign m_axi_awvalid = awvalid && !use_dram;
  assign m_axi_wvalid = wvalid && !use_dram;
  assign m_axi_rready = rready && !use_dram;
  assign m_axi_bready = bready && !use_dram;

  accelerator accelerator (
    .aclk, .aresetn, .interrupt,
    .s_axi_awaddr, .s_axi_awprot, .s_axi_awvalid, .s_axi_awready,
    .s_axi_wdata, .s_axi_wstrb, .s_axi_wvalid, .s_axi_wready,
    .s_axi_bresp, .s_axi_bvalid, .s_axi_bready,
    .s_axi_araddr, .s_axi_arprot, .s_axi_arvalid, .s_axi_arready,
    .s_axi_rdata, .s_axi_rresp, .s_axi_rvalid, .s_axi_rready,
    .m_axi_arid, .m_axi_araddr, .m_axi_arlen, .m_axi_arsize, .m_axi_arburst,
    .m_axi_arlock(), .m_axi_arcache(), .m_axi_arprot(), .m_axi_arqos(),
    .m_axi_arvalid(arvalid), .m_axi_arready(use_dram ? dram_arready : m_axi_arready),
    .m_axi_rid(use_dram ? dram_rid : m_axi_rid),
    .m_axi_rdata(use_dram ? dram_rdata : m_axi_rdata),
    .m_axi_rresp(use_dram ? dram_rresp : m_axi_rresp),
    .m_axi_rlast(use_dram ? dram_rlast : m_axi_rlast),
    .m_axi_rvalid(use_dram ? dram_rvalid : m_axi_rvalid), .m_axi_rready(rready),
    .m_axi_awid, .m_axi_awaddr, .m_axi_awlen, .m_axi_awsize, .m_axi_awburst,
    .m_axi_awlock(), .m_axi_awcache(), .m_axi_awprot(), .m_axi_awqos(),
    .m_axi_awvalid(awvalid), .m_axi_awready(use_dram ? dram_awready : m_axi_awready),
    .m_axi_wdata, .m_axi_wstrb, .m_axi_wlast,
    .m_axi_wvalid(wvalid), .m_axi_wready(use_dram ? dram_wready : m_axi_wready),
    .m_axi_bid(use_dram ? dram_bid : m_axi_bid),
    .m_axi_bresp(use_dram ? dram_bresp : m_axi_bresp),
    .m_axi_bvalid(use_dram ? dram_bvalid : m_axi_bvalid), .m_axi_bready(bready)
  );

  dram #(.BUS_BITS(BUS_BITS)) dram (
    .aclk, .aresetn, .violation,
    .s_axi_arid(m_axi_arid), .s_axi_araddr(m_axi_araddr), .s_axi_arlen(m_axi_arlen),
    .s_axi_arsize(m_axi_arsize), .s_axi_arburst(m_axi_arburst),
    .s_axi_arvalid(arvalid && use_dram), .s_axi_arready(dram_arready),
    .s_axi_rid(dram_rid), .s_axi_rdata(dram_rdata), .s_axi_rresp(dram_rresp),
    .s_axi_rlast(dram_rlast), .s_axi_rvalid(dram_rvalid), .s_axi_rready(rready && use_dram),
    .s_axi_awid(m_axi_awid), .s_axi_awaddr(m_axi_awaddr), .s_axi_awlen(m_axi_awlen),
    .s_axi_awsize(m_axi_awsize), .s_axi_awburst(m_axi_awburst),
    .s_axi_awvalid(awvalid && use_dram), .s_axi_awready(dram_awready),
    .s_axi_wdata(m_axi_wdata), .s_axi_wstrb(m_axi_wstrb), .s_axi_wlast(m_axi_wlast),
    .s_axi_wvalid(wvalid && use_dram), .s_axi_wready(dram_wready),
    .s_axi_bid(dram_bid), .s_axi_bresp(dram_bresp), .s_axi_bvalid(dram_bvalid),
    .s_axi_bready(bready && use_dram)
  );
endmodule
